package metadata

import (
	"bytes"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"blkd/metadata/metapb"
)

var rewrite = flag.Bool("rewrite", false, "write the traces of testdata anew")

// TestDetectorTraces runs the scripts of testdata/detector. Every line is a
// command; what the detector of node n1 answers stands below it, indented. A
// time before a line of an answer is the detector's clock.
//
//	config KEY=VALUE…     before anything else: fields of DetectorConfig
//	peers n2=21 n3=31     nodes to watch and their registered incarnations
//	run 1s n2 n3!n2,n1    time passes; the nodes named send beats meanwhile, each
//	                      hears the other ones that do and n1, but not those after
//	                      "!"; "n2@22" is another run; "n2~rtt=300ms" and
//	                      "n2~disk=1s" are late; "n2~every=5" sends every fifth
//	                      beat; of "n2~old" the last one arrives again and again
//	burst 5 n2            n2's last beats arrive again, so many, and then so many
//	                      new ones at once
//	stall 10s             n1 stands still
//	refuse n3             n3's machine refuses a connection
//	disk 700ms            n1's own disk is late
//	why | cuts | heard    what the detector says
//	quorum n1 n2 n3
//
// Changes of a verdict are always shown. With -rewrite the answers are written
// anew.
func TestDetectorTraces(t *testing.T) { runTraces(t, "testdata/detector/*.txt", detectorTrace) }

// detectorTrace runs a script and returns it with the answers.
func detectorTrace(script string) ([]byte, error) {
	tr := &tracer{seq: map[string]uint64{}, start: 5 * time.Second}
	tr.now = tr.start
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, " ") {
			continue
		}
		tr.out.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if err := tr.command(words[0], words[1:]); err != nil {
			return nil, fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
	}
	return tr.out.Bytes(), nil
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d:\nwant %s\ngot  %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("want %d lines, got %d", len(w), len(g))
}

// tracer drives the detector of n1.
type tracer struct {
	config     DetectorConfig
	d          *Detector
	start, now time.Duration
	peers      []Peer
	seq        map[string]uint64 // by node and run
	verdicts   []Verdict
	out        bytes.Buffer
}

// sender is one node that beats during a run.
type sender struct {
	name      string
	run       uint64
	notHeard  []string
	rtt, disk time.Duration
	every     int
	old       bool
}

func (tr *tracer) command(verb string, args []string) error {
	if tr.d == nil && verb != "config" {
		d, err := NewDetector("n1", 11, tr.config, tr.now)
		if err != nil {
			return err
		}
		tr.d = d
	}
	switch verb {
	case "config":
		return tr.configure(args)
	case "peers":
		tr.peers = nil
		for _, arg := range args {
			name, run, _ := strings.Cut(arg, "=")
			incarnation, err := strconv.ParseUint(run, 10, 64)
			if err != nil {
				return err
			}
			tr.peers = append(tr.peers, Peer{name, incarnation})
		}
		tr.d.SetPeers(tr.now, tr.peers)
		tr.changes()
	case "stall":
		t, err := time.ParseDuration(args[0])
		tr.now += t
		return err
	case "refuse":
		tr.d.Refused(tr.now, args[0])
		tr.changes()
	case "disk":
		t, err := time.ParseDuration(args[0])
		tr.d.OwnDisk(tr.now, t)
		return err
	case "run":
		return tr.run(args)
	case "burst":
		return tr.burst(args)
	default:
		return tr.ask(verb, args)
	}
	return nil
}

func (tr *tracer) configure(args []string) error {
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		t, err := time.ParseDuration(value)
		if err != nil {
			return err
		}
		switch key {
		case "heartbeat":
			tr.config.Heartbeat = t
		case "suspect-min":
			tr.config.SuspectMin = t
		case "hold-decay":
			tr.config.HoldDecay = t
		default:
			return fmt.Errorf("no such field")
		}
	}
	return nil
}

func (tr *tracer) run(args []string) error {
	length, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	var senders []sender
	for _, arg := range args[1:] {
		s, err := tr.sender(arg)
		if err != nil {
			return err
		}
		senders = append(senders, s)
	}
	const half = 50 * time.Millisecond
	for end := tr.now + length; tr.now+half <= end; {
		tr.now += half
		if beat := int(tr.now / (2 * half)); tr.now%(2*half) == 0 {
			for _, s := range senders {
				if beat%s.every == 0 {
					tr.d.Beat(tr.now, tr.beat(s, senders))
					tr.changes()
				}
			}
		}
		tr.d.Tick(tr.now)
		tr.changes()
	}
	return nil
}

// sender parses "n2@22!n1,n3~rtt=300ms~disk=1s~every=5".
func (tr *tracer) sender(arg string) (sender, error) {
	var s sender
	arg, tags, _ := strings.Cut(arg, "~")
	arg, deaf, _ := strings.Cut(arg, "!")
	s.notHeard = strings.Split(deaf, ",")
	name, run, other := strings.Cut(arg, "@")
	s.name, s.every = name, 1
	for _, p := range tr.peers {
		if p.Name == name {
			s.run = p.Incarnation
		}
	}
	var err error
	if other {
		if s.run, err = strconv.ParseUint(run, 10, 64); err != nil {
			return s, err
		}
	}
	for tag := range strings.SplitSeq(tags, "~") {
		key, value, _ := strings.Cut(tag, "=")
		switch key {
		case "rtt":
			s.rtt, err = time.ParseDuration(value)
		case "disk":
			s.disk, err = time.ParseDuration(value)
		case "old":
			s.old = true
		case "every":
			s.every, err = strconv.Atoi(value)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// beat makes the next beat of s, who hears n1 and the senders that beat with
// their registered run, except for those it does not hear: 9 s ago.
func (tr *tracer) beat(s sender, all []sender) Beat {
	key := fmt.Sprint(s.name, s.run)
	if !s.old {
		tr.seq[key]++
	}
	b := Beat{From: s.name, Incarnation: s.run, Seq: tr.seq[key], RTT: s.rtt, DiskLate: s.disk}
	hears := func(name string, run uint64) {
		ago := 40 * time.Millisecond
		if slices.Contains(s.notHeard, name) {
			ago = 9 * time.Second
		}
		b.Heard = append(b.Heard, Heard{name, run, ago})
	}
	hears("n1", 11)
	for _, o := range all {
		if o.name != s.name {
			hears(o.name, o.run)
		}
	}
	// A node behind "!" with a plus is heard by s alone.
	for _, name := range s.notHeard {
		if only, ok := strings.CutPrefix(name, "+"); ok {
			for _, p := range tr.peers {
				if p.Name == only {
					hears(only, p.Incarnation)
				}
			}
		}
	}
	return b
}

func (tr *tracer) burst(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	s, err := tr.sender(args[1])
	if err != nil {
		return err
	}
	key := fmt.Sprint(s.name, s.run)
	tr.seq[key] = max(0, tr.seq[key]-uint64(n))
	for range 2 * n {
		tr.d.Beat(tr.now, tr.beat(s, nil))
		tr.changes()
	}
	return nil
}

func (tr *tracer) ask(verb string, args []string) error {
	switch verb {
	case "why":
		for _, v := range tr.d.Verdicts() {
			tr.say("%s %s %s: %s", v.Node, metapb.HealthWord(v.Health), tr.hold(v), v.Text)
		}
	case "cuts":
		for _, c := range tr.d.Cuts() {
			tr.say("%s does not hear %s", c.To, c.From)
		}
	case "heard":
		for _, h := range tr.d.Heard() {
			tr.say("%s of run %d, %v ago", h.Node, h.Incarnation, h.Ago)
		}
	case "quorum":
		q := tr.d.Quorum(args)
		tr.say("reached %v: %v", q.Reached(), q)
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

// changes shows what is new.
func (tr *tracer) changes() {
	old := tr.verdicts
	tr.verdicts = tr.d.Verdicts()
	for _, v := range tr.verdicts {
		i := slices.IndexFunc(old, func(o Verdict) bool { return o.Node == v.Node })
		switch {
		case i < 0 && v.Health != metapb.Health_HEALTH_UP:
			tr.say("%s new: %s", v.Node, v.Text)
		case i >= 0 && old[i].Incarnation != v.Incarnation:
			tr.say("%s has another run: %s", v.Node, v.Text)
		case i >= 0 && (old[i].Health != v.Health || old[i].HeldUntil != v.HeldUntil):
			tr.say("%s %s %s: %s", v.Node, metapb.HealthWord(v.Health), tr.hold(v), v.Text)
		}
	}
}

func (tr *tracer) hold(v Verdict) string {
	if v.HeldUntil > 0 {
		return fmt.Sprintf("(held until %.2fs)", (v.HeldUntil - tr.start).Seconds())
	}
	return fmt.Sprintf("(for %.2fs)", (tr.now - v.Since).Seconds())
}

func (tr *tracer) say(format string, args ...any) {
	fmt.Fprintf(&tr.out, "  %.2fs  %s\n", (tr.now - tr.start).Seconds(), fmt.Sprintf(format, args...))
}
