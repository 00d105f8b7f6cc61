package fio

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestJobsAreOneClaimEach(t *testing.T) {
	jobs, err := Jobs()
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]string{}
	for _, j := range jobs {
		if j.Get("ioengine") != "nbd" || j.Get("uri") != "${URI}" {
			t.Errorf("%s: ioengine=%s uri=%s, want nbd and ${URI}", j.Name, j.Get("ioengine"), j.Get("uri"))
		}
		if other, ok := claims[j.Claim]; ok {
			t.Errorf("%s claims the same as %s: %s", j.Name, other, j.Claim)
		}
		claims[j.Claim] = j.Name
		if _, err := loadOf(j); (err != nil) != (j.Get("verify") != "") {
			t.Errorf("%s with --engine blkd: %v", j.Name, err)
		}
	}
	for _, rw := range []string{"randread", "randwrite"} {
		for _, qd := range []string{"1", "32", "128"} {
			for _, conns := range []string{"", "-j4"} {
				if _, err := SelectJobs([]string{rw + "-4k-qd" + qd + conns}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if _, err := SelectJobs(defaultJobs); err != nil {
		t.Error(err)
	}
}

func TestSelectJobs(t *testing.T) {
	jobs, err := SelectJobs([]string{"randread-4k-qd*", "randread-4k-qd1"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, j := range jobs {
		if !strings.HasSuffix(j.Name, "-j4") {
			names = append(names, j.Name)
		}
	}
	want := []string{"randread-4k-qd1", "randread-4k-qd32", "randread-4k-qd128"}
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	for _, bad := range []string{"randreed", "["} {
		if _, err := SelectJobs([]string{bad}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("pattern %q: error %v does not name it", bad, err)
		}
	}
}

func TestParseJobRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no claim":        "[global]\nrw=read\n[x]\n",
		"wrong section":   "# Claim: a\n[global]\nrw=read\n[y]\n",
		"option outside":  "# Claim: a\nrw=read\n[global]\n[x]\n",
		"no value":        "# Claim: a\n[global]\nrw\n[x]\n",
		"option in a job": "# Claim: a\n[global]\n[x]\nrw=read\n",
	} {
		if _, err := parseJob("x", []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestJobChanges(t *testing.T) {
	jobs, err := SelectJobs([]string{"randwrite-4k-qd32", "verify-crc32c"})
	if err != nil {
		t.Fatal(err)
	}
	timed := jobs[0].withRuntime(1500 * time.Millisecond)
	if d, err := timed.runtime(); err != nil || d != 1500*time.Millisecond {
		t.Errorf("runtime is %v (%v), want 1.5s", d, err)
	}
	if got := jobs[0].Get("runtime"); got != "5s" {
		t.Errorf("withRuntime changed its receiver: runtime=%s", got)
	}
	if got := jobs[1].withRuntime(time.Second).Get("runtime"); got != "" {
		t.Errorf("a job that ends by itself got runtime=%s", got)
	}
	if n, err := timed.Int("bs", 0); err != nil || n != 4096 {
		t.Errorf("bs is %d (%v), want 4096", n, err)
	}
	again, err := parseJob(timed.Name, fioJobFor(timed, Target{URI: "nbd://h/"}, "/d").file())
	if err != nil || again.Get("uri") != "nbd://h/" || again.Get("write_iops_log") != "/d/log" {
		t.Errorf("rendered job reads back as %+v (%v)", again, err)
	}
	file := fioJobFor(timed, Target{URI: "file:/a/b"}, "/d")
	if file.Get("uri") != "" || file.Get("filename") != "/a/b" || file.Get("ioengine") != "psync" {
		t.Errorf("job for a file: %+v", file)
	}
}

func TestCompareNatural(t *testing.T) {
	names := []string{"a-qd128", "a-qd32", "b", "a-qd1-j4", "a-qd1", "a"}
	slices.SortFunc(names, compareNatural)
	want := []string{"a", "a-qd1", "a-qd1-j4", "a-qd32", "a-qd128", "b"}
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}
