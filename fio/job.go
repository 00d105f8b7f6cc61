package fio

import (
	"bufio"
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

//go:embed *.fio
var jobFiles embed.FS

// Job is one job file: one claim about a server and the load that tests it.
type Job struct {
	Name  string // the file's name without .fio
	Claim string // the file's leading comment
	opts  []option
}

// option is one "key=value" line of a job file, in file order.
type option struct{ key, value string }

// Jobs returns every job of this package, ordered by name with numbers by value.
func Jobs() ([]Job, error) {
	entries, err := jobFiles.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var jobs []Job
	for _, e := range entries {
		text, err := jobFiles.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		j, err := parseJob(strings.TrimSuffix(e.Name(), ".fio"), text)
		if err != nil {
			return nil, fmt.Errorf("job file %s: %w", e.Name(), err)
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b Job) int { return compareNatural(a.Name, b.Name) })
	return jobs, nil
}

// SelectJobs returns the jobs whose names match any of the patterns (path.Match
// syntax, e.g. "rand*-qd1"), in the order of [Jobs].
func SelectJobs(patterns []string) ([]Job, error) {
	all, err := Jobs()
	if err != nil {
		return nil, err
	}
	var picked []Job
	for _, p := range patterns {
		found := false
		for _, j := range all {
			ok, err := path.Match(p, j.Name)
			if err != nil {
				return nil, fmt.Errorf("job pattern %q: %w", p, err)
			}
			found = found || ok
			if ok && !slices.ContainsFunc(picked, func(k Job) bool { return k.Name == j.Name }) {
				picked = append(picked, j)
			}
		}
		if !found {
			return nil, fmt.Errorf("no job is called %q; --list shows them all", p)
		}
	}
	slices.SortFunc(picked, func(a, b Job) int { return compareNatural(a.Name, b.Name) })
	return picked, nil
}

// parseJob reads the subset of fio's job file format that this package's files use:
// a leading comment, one [global] section, one job section named like the file.
func parseJob(name string, text []byte) (Job, error) {
	j := Job{Name: name}
	var claim []string
	section := ""
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "":
		case strings.HasPrefix(line, "#"):
			if c := strings.TrimSpace(line[1:]); section == "" && !strings.HasPrefix(c, "Run it alone") {
				claim = append(claim, c)
			}
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		case section != "global":
			return j, fmt.Errorf("option %q outside of [global]", line)
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok {
				return j, fmt.Errorf("line %q is not key=value", line)
			}
			j.opts = append(j.opts, option{strings.TrimSpace(key), strings.TrimSpace(value)})
		}
	}
	j.Claim = strings.TrimPrefix(strings.Join(claim, " "), "Claim: ")
	if section != name {
		return j, fmt.Errorf("last section is [%s], want [%s]", section, name)
	}
	if j.Claim == "" {
		return j, fmt.Errorf("no comment at the top says which claim it tests")
	}
	return j, nil
}

// Get is an option's value, or "".
func (j Job) Get(key string) string {
	for _, o := range j.opts {
		if o.key == key {
			return o.value
		}
	}
	return ""
}

// Int is an option's value as a number, or the default when it is not set. Sizes have
// fio's suffixes (4k, 1m: powers of 1024).
func (j Job) Int(key string, byDefault int64) (int64, error) {
	v := strings.ToLower(j.Get(key))
	if v == "" {
		return byDefault, nil
	}
	unit := int64(1)
	if i := strings.IndexByte("kmg", v[len(v)-1]); i >= 0 {
		unit = 1 << (10 * (i + 1))
		v = v[:len(v)-1]
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("job %s: %s=%s is not a number", j.Name, key, j.Get(key))
	}
	return n * unit, nil
}

// Writes tells whether the job overwrites what the export holds.
func (j Job) Writes() bool {
	rw := j.Get("rw")
	return rw != "read" && rw != "randread"
}

// Flushes tells whether the job flushes as it goes; then its latencies are those of
// the flush.
func (j Job) Flushes() bool { return j.Get("fsync") != "" }

// With returns the job with one option of another value, under another name. It is for
// curves: the same load at many depths or block sizes.
func (j Job) With(name, key, value string) Job {
	j = j.with(option{key, value})
	j.Name = name
	return j
}

// with returns a copy of the job with options replaced or, at the end, added.
func (j Job) with(changes ...option) Job {
	j.opts = slices.Clone(j.opts)
	for _, c := range changes {
		if i := slices.IndexFunc(j.opts, func(o option) bool { return o.key == c.key }); i >= 0 {
			j.opts[i] = c
		} else {
			j.opts = append(j.opts, c)
		}
	}
	return j
}

// withRuntime returns the job limited to d; jobs that end by themselves stay as they are.
func (j Job) withRuntime(d time.Duration) Job {
	if d <= 0 || j.Get("runtime") == "" {
		return j
	}
	return j.with(option{"runtime", strconv.FormatInt(d.Milliseconds(), 10) + "ms"})
}

// runtime is how long the job runs, or 0 when it ends by itself.
func (j Job) runtime() (time.Duration, error) {
	v := j.Get("runtime")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, fmt.Errorf("job %s: runtime=%s is not a duration", j.Name, v)
	}
	return d, nil
}

// file renders the job as a job file.
func (j Job) file() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n[global]\n", j.Claim)
	for _, o := range j.opts {
		fmt.Fprintf(&b, "%s=%s\n", o.key, o.value)
	}
	fmt.Fprintf(&b, "[%s]\n", j.Name)
	return b.Bytes()
}

// compareNatural orders strings with runs of digits compared as numbers: qd1, qd32, qd128.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, _ := strconv.ParseUint(a[:da], 10, 64)
			y, _ := strconv.ParseUint(b[:db], 10, 64)
			if c := cmp.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is the length of the run of digits that s starts with.
func digits(s string) int {
	for i, r := range s {
		if !unicode.IsDigit(r) {
			return i
		}
	}
	return len(s)
}
