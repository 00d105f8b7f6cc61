package drill

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

func TestCommands(t *testing.T) {
	c := Commands{Template: "echo {node}: {command} >> " + filepath.Join(t.TempDir(), "out"), Actions: map[Action]string{Kill: "kill {node}"}}
	file := c.Template[strings.LastIndex(c.Template, " ")+1:]
	if !c.Can(Kill) || c.Can(Isolate) || c.Fast() {
		t.Error("what it can do")
	}
	if err := c.Do(context.Background(), "n1", Kill); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "n1: kill n1\n" {
		t.Errorf("%q, %v", text, err)
	}
	c.Template = "echo no; false"
	if err := c.Do(context.Background(), "n1", Kill); err == nil || !strings.Contains(err.Error(), "exit status 1: no") {
		t.Errorf("%v", err)
	}
}

func TestDev(t *testing.T) {
	d := Dev{Dir: t.TempDir()}
	if err := d.Do(context.Background(), "n1", Kill); err == nil || !strings.Contains(err.Error(), "the directory of a blkctl dev") {
		t.Errorf("%v", err)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(d.Dir, "n1"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.Dir, "n1", PidFile)
	for _, c := range []struct{ text, want string }{{"0\n", "does not hold the id"}, {"x", "does not hold the id"}, {strconv.Itoa(cmd.Process.Pid) + "\n", ""}} {
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := d.Do(context.Background(), "n1", Kill); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
	if err := d.Do(context.Background(), "n1", Pause); err == nil || !strings.Contains(err.Error(), "node n1: no such process") {
		t.Errorf("%v", err)
	}
}

func TestPossible(t *testing.T) {
	ssh := Commands{Template: "x", Actions: map[Action]string{Kill: "k", Pause: "p", Resume: "r"}}
	for _, d := range Drills {
		dev, commands, none := d.possible(Dev{}) == "", d.possible(ssh) == "", d.possible(Commands{}) == ""
		want := map[string][3]bool{"handover": {true, true, true}, "isolate": {false, false, false}, "slow-node": {true, false, false}}
		w, special := want[d.Name]
		if !special {
			w = [3]bool{true, true, false}
		}
		if w != [3]bool{dev, commands, none} {
			t.Errorf("%s: %v %v %v", d.Name, dev, commands, none)
		}
	}
}

func TestRedundant(t *testing.T) {
	member := func(n string, s metapb.ReplicaState) *metapb.Member { return &metapb.Member{Node: n, State: s} }
	up := metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE
	v := &api.Volume{Name: "v", Record: &metapb.Volume{MinCopies: 2, Members: []*metapb.Member{member("n1", up), member("n2", up), member("n3", up)}},
		Replicas: []*api.Replica{{Node: "n1", Connected: true}, {Node: "n2", Connected: true}, {Node: "n3", Connected: true}}}
	if lacks := redundant(v); lacks != nil {
		t.Errorf("%v", lacks)
	}
	v.Replicas[1].Connected = false
	v.Record.Members[2].State = metapb.ReplicaState_REPLICA_STATE_OUTDATED
	v.Record.MinCopies = 3
	if lacks := redundant(v); len(lacks) != 3 {
		t.Errorf("%v", lacks)
	}
}

func TestSecondary(t *testing.T) {
	for _, c := range []struct {
		roles
		want string
	}{
		{roles{"n1", "n1", []string{"n1", "n2", "n3"}}, "n2"},
		{roles{"n1", "n2", []string{"n1", "n2", "n3"}}, "n3"},
		{roles{"n2", "n3", []string{"n1", "n2", "n3"}}, "n1"},
		{roles{"n1", "n2", []string{"n1", "n2"}}, "n2"},
	} {
		if got := c.secondary(); got != c.want {
			t.Errorf("%v: %s", c.roles, got)
		}
	}
}

func TestAvailability(t *testing.T) {
	if part, nines := availability(1, 999); part != 0.999 || nines < 2.999 || nines > 3.001 {
		t.Errorf("%v, %v", part, nines)
	}
	if part, nines := availability(0, 999); part != 1 || nines != 12 {
		t.Errorf("%v, %v", part, nines)
	}
}

func TestJudge(t *testing.T) {
	d := Drill{Stall: time.Second, needs: []Action{Kill}}
	for _, c := range []struct {
		Result
		outcome, why string
	}{
		{Result{StallSeconds: 0.9}, Passed, ""},
		{Result{StallSeconds: 1.1}, Failed, "clients waited 1.1 s"},
		{Result{Lost: 1}, Failed, "cannot be"},
		{Result{Disconnects: 2}, Failed, "disconnected 2 times"},
	} {
		x := trial{drill: &d, result: &c.Result}
		x.judge()
		if c.Outcome != c.outcome || !strings.Contains(strings.Join(c.Why, " "), c.why) {
			t.Errorf("%s, %v", c.Outcome, c.Why)
		}
	}
}

// TestStall: what the client of the disturbed node is told does not end the wait of the
// others.
func TestStall(t *testing.T) {
	c := &Cluster{Nodes: []*Node{{Name: "n1", NBD: "a"}, {Name: "w"}, {Name: "n2", NBD: "b"}}}
	for _, d := range []*Drill{{needs: []Action{Kill}}, {}} {
		began := time.Now().Add(-time.Second)
		x := trial{Cluster: c, drill: d, began: began, last: began, sent: make([]time.Time, 2), result: &Result{Node: "n1", Timeline: &Timeline{}}}
		x.acknowledged(0, began) // of the disturbed node
		x.settle(time.Now())
		if alone := d.needs == nil; (x.result.StallSeconds >= 1) != true || (x.last == began) == alone {
			t.Errorf("stall %v, last %v", x.result.StallSeconds, x.last.Sub(began))
		}
		x.acknowledged(1, time.Now())
		x.forget()
		if x.settle(time.Now()); x.result.StallSeconds > 0.5 || x.result.Writes != 2 || len(x.result.Timeline.Writes) < 10 {
			t.Errorf("%+v", x.result)
		}
	}
}

func TestReport(t *testing.T) {
	half := 0.5
	r := &Report{Cluster: "prod", Volume: "v", Began: time.Unix(0, 0).UTC(), MTBFSeconds: 999}
	r.Add(&Result{Name: "isolate", Text: "cut", Outcome: Skipped, Why: []string{"nobody knows how"}})
	if r.Passed {
		t.Error("nothing was held, and it passed")
	}
	r.Add(&Result{Name: "kill", Text: "a node <is> killed", Expectation: "little", Outcome: Passed, Node: "n1", DetectionSeconds: &half, StallSeconds: 1,
		RecoverySeconds: 0.25, Writes: 7, Timeline: &Timeline{StepSeconds: 0.1, Writes: []int{4, 2}, Disconnects: []int64{0, 1}, Changes: []Change{{0.15, "killed"}}}})
	if !r.Passed {
		t.Error("a drill was skipped, and nothing passed")
	}
	r.Add(&Result{Name: "pause", Text: "paused", Outcome: Failed, Why: []string{"clients waited"}, Violation: "block 3"})
	if r.Passed {
		t.Error("a drill failed, and it passed")
	}
	var text, page bytes.Buffer
	r.WriteText(&text)
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kill\tpassed\tn1\t500 ms\t1.0 s\t250 ms\t7\t0\t3.0", "isolate\tskipped", "! pause failed: clients waited\nblock 3", "once in 16m39s"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q lacks %q", text.String(), want)
		}
	}
	for _, want := range []string{"a node &lt;is&gt; killed (n1)", "Not everything went", `<rect class="e" x="450.0" y="0.0"`, "0.15 s: killed", "Availability 99.9 %", "the highest bar is 40 a second", "block 3"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
