package sim

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 200, "how many seeds TestSimulation runs")
	simFirst = flag.Uint64("sim.first", 1, "the first of them")
)

// TestSimulation runs seeds: no rule is broken, and everything happens that shall.
func TestSimulation(t *testing.T) {
	seeds := *simSeeds
	if testing.Short() {
		seeds /= 10
	}
	var sum Tally
	var simulated time.Duration
	begun := time.Now()
	for seed := *simFirst; seed < *simFirst+seeds; seed++ {
		r := Run(Plan(seed), nil)
		if r.Violation != nil {
			t.Fatalf("seed %d: %v\nto see its trace: go run ./cmd/blksim replay %d", seed, r.Violation, seed)
		}
		sum.Add(r.Tally)
		simulated += r.Simulated
	}
	t.Logf("%d seeds, %.1f hours, %.0f times real time: %+v", seeds, simulated.Hours(), simulated.Seconds()/time.Since(begun).Seconds(), sum)
	if seeds < 200 {
		return
	}
	if sum.Rebuilt != 0 {
		t.Errorf("%d blocks of mirrors were rebuilt", sum.Rebuilt)
	}
	sum.Rebuilt, sum.Torn, sum.Holes, sum.Moves, sum.Large = 1, 1, 1, 1, 1 // that is for erasure codes
	v := reflect.ValueOf(sum)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			t.Errorf("in %d seeds nothing was %s", seeds, v.Type().Field(i).Name)
		}
	}
}

// TestSimulationCoded runs seeds of erasure codes: there is no torn stripe.
func TestSimulationCoded(t *testing.T) {
	seeds := *simSeeds / 2
	if testing.Short() {
		seeds /= 10
	}
	var sum Tally
	for seed := CodedSeeds + *simFirst; seed < CodedSeeds+*simFirst+seeds; seed++ {
		r := Run(Plan(seed), nil)
		if r.Violation != nil {
			t.Fatalf("seed %d: %v\nto see its trace: go run ./cmd/blksim replay %d", seed, r.Violation, seed)
		}
		sum.Add(r.Tally)
	}
	t.Logf("%d seeds: %+v", seeds, sum)
	if sum.Rebuilt == 0 || sum.Copies == 0 || sum.Reads == 0 || sum.Mended == 0 && seeds >= 100 || sum.Comparisons == 0 || sum.Torn == 0 || sum.Holes == 0 || sum.Large == 0 || sum.Resizes == 0 || sum.Moves == 0 && seeds >= 100 {
		t.Errorf("nothing was rebuilt, copied, read, mended, compared, torn, found to be a hole, resized or moved: %+v", sum)
	}
}

// TestScenarios plays all scenarios, with the seeds that hunt plays them with.
func TestScenarios(t *testing.T) {
	seeds := uint64(scenarioSeeds)
	if testing.Short() {
		seeds = 1
	}
	for i := range scenarios {
		t.Run(scenarios[i].name, func(t *testing.T) {
			for seed := uint64(1); seed <= seeds; seed++ {
				if r := scenarios[i].run(seed, nil); r.Violation != nil {
					t.Fatalf("seed %d: %v\nto see its trace: go run ./cmd/blksim scenario --first %d %q", seed, r.Violation, seed, scenarios[i].name)
				}
			}
		})
	}
}

// scenarioSeeds is how many seeds each scenario is played with.
const scenarioSeeds = 3

// TestKeptSeeds runs what has failed once.
func TestKeptSeeds(t *testing.T) {
	files, err := filepath.Glob("testdata/seeds/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no seeds are kept: %v", err)
	}
	for _, file := range files {
		p, err := Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if r := Run(p, nil); r.Violation != nil {
			t.Errorf("%s: %v", file, r.Violation)
		}
	}
}

// TestEveryCrashPoint cuts short workloads at every operation of every disk, in every
// way, and promotes each node after that.
func TestEveryCrashPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	for i := range loads {
		points := 0
		loads[i].eachPoint(2, func(p crashPoint) bool {
			points++
			r, _ := p.run(nil)
			if r.Violation != nil {
				t.Errorf("%v: %v", p, r.Violation)
			}
			return r.Violation == nil
		})
		t.Logf("%s: %d points", loads[i].name, points)
		if points < 100 {
			t.Errorf("%s has %d points only", loads[i].name, points)
		}
	}
}

// TestRunsReplay runs seeds twice: everything happens alike.
func TestRunsReplay(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, b := Run(Plan(seed), nil), Run(Plan(seed), nil)
		if a != b {
			t.Errorf("seed %d: %+v, and then %+v", seed, a, b)
		}
	}
	var first, second bytes.Buffer
	Run(Plan(3), &first)
	Run(Plan(3), &second)
	if first.Len() == 0 || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("a trace is empty, or another one the second time")
	}
}

// TestShrink cuts a plan down that fails whenever two of its faults are there.
func TestShrink(t *testing.T) {
	p := Plan(7)
	p.Rule = "S5"
	need := []Fault{p.Faults[10], p.Faults[40]}
	tries := 0
	q := Shrink(p, func(q Schedule) (string, bool) {
		tries++
		found := 0
		for _, f := range q.Faults {
			if f == need[0] || f == need[1] {
				found++
			}
		}
		if found == 2 {
			return "S5", true
		}
		return "", true
	})
	if !reflect.DeepEqual(q.Faults, need) || q.Length >= p.Length || q.Length < need[1].At {
		t.Errorf("after %d tries: %v in %v", tries, q.Faults, q.Length)
	}
}

// TestSchedulesAreKept writes a schedule and reads it, and a damaged one.
func TestSchedulesAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.json")
	p := Plan(5)
	if err := p.Save(file); err != nil {
		t.Fatal(err)
	}
	if q, err := Load(file); err != nil || !reflect.DeepEqual(p, q) {
		t.Errorf("%v: %+v is read as %+v", err, p, q)
	}
	p.Faults = []Fault{{Kind: "flood"}}
	if err := p.Save(file); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "no such fault") {
		t.Errorf("an unknown fault is read: %v", err)
	}
}

// TestRulesAreWhole: every rule of the protocol is listed, and docs/testing.md tells
// where those are checked that are not checked here.
func TestRulesAreWhole(t *testing.T) {
	doc, err := os.ReadFile("../../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, r := range Rules() {
		listed[r.Name] = true
		if !strings.Contains(string(doc), "| "+r.Name+" |") {
			t.Errorf("docs/testing.md does not tell what checks %s", r.Name)
		}
	}
	for kind, n := range map[string]int{"S": 12, "L": 4, "I": 16} {
		for i := range n {
			if name := fmt.Sprint(kind, i+1); !listed[name] {
				t.Errorf("no rule is called %s", name)
			}
		}
	}
}

// TestCommand: what the command says, and its exit codes.
func TestCommand(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "blksim run"},
		{"run --seeds 1 --first 3", 0, "seeds 3 to 3"},
		{"run 3", 2, "replay"},
		{"replay 3", 0, "hash"},
		{"replay", 2, "which one"},
		{"replay nothing.json", 2, "no schedule"},
		{"shrink 3", 0, "breaks no rule"},
		{"scenario one copy alone", 0, "one copy alone"},
		{"scenario of nothing", 2, "no scenario"},
		{"rules", 0, "I16"},
		{"dance", 2, "no command"},
	} {
		var out bytes.Buffer
		if code := Main(strings.Fields(c.args), &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("blksim %s: exit code %d, and says %.300q", c.args, code, out.String())
		}
	}
}
