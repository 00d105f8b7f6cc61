package fencing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"blkd/internal/env/manualclock"
)

// fakeAgent answers each action from a list; the last answer of a list stays.
type fakeAgent struct {
	mu      sync.Mutex
	answers map[Action][]any // Result, error, or func(ctx) to wait in
	asked   []string
}

func (a *fakeAgent) run(ctx context.Context, agent, stdin string) (Result, error) {
	first, _, _ := strings.Cut(stdin, "\n")
	action := strings.TrimPrefix(first, "action=")
	a.mu.Lock()
	a.asked = append(a.asked, action)
	list := a.answers[Action(action)]
	if len(list) > 1 {
		a.answers[Action(action)] = list[1:]
	}
	a.mu.Unlock()
	if len(list) == 0 {
		return Result{}, fmt.Errorf("%s: unexpected %s", agent, action)
	}
	switch answer := list[0].(type) {
	case Result:
		return answer, nil
	case error:
		return Result{}, answer
	case func(context.Context):
		answer(ctx)
		return Result{}, ctx.Err()
	}
	panic("not an answer")
}

var (
	done   = Result{}
	broken = Result{Exit: 1, Stderr: "2026-01-01 10:00:00,001 ERROR: Connection timed out\n\n2026-01-01 10:00:00,002 ERROR: Please use '-h' for usage\n"}
	isOn   = Result{Exit: 0, Stdout: "Status: ON\n"}
	isOff  = Result{Exit: 2, Stdout: "Status: OFF\n"}
)

var sampleConfig = Config{Node: map[string]Device{
	"n2": {Agent: "fence_fake", Parameters: map[string]string{"ip": "10.0.0.2", "password": "hunter2", "Plug-Name": "7"}},
}}

func newTestFencer(t *testing.T, answers map[Action][]any) (*Fencer, *fakeAgent, *manualclock.Clock) {
	t.Helper()
	agent, clock := &fakeAgent{answers: answers}, manualclock.New()
	f, err := NewFencer(sampleConfig, agent.run, clock)
	if err != nil {
		t.Fatal(err)
	}
	return f, agent, clock
}

// eventually advances the clock until f returns.
func eventually(t *testing.T, clock *manualclock.Clock, f func()) {
	t.Helper()
	over := make(chan struct{})
	go func() {
		defer close(over)
		f()
	}()
	for {
		select {
		case <-over:
			return
		default:
			clock.Advance(100 * time.Millisecond)
			time.Sleep(10 * time.Microsecond)
		}
	}
}

func TestFencerSwitch(t *testing.T) {
	for _, c := range []struct {
		name     string
		action   Action
		answers  map[Action][]any
		asked    string
		attempts int
		power    Power
		err      string // empty: success
	}{
		{"off", Off, map[Action][]any{Off: {done}, Status: {isOff}}, "off status", 1, PowerOff, ""},
		{"on", On, map[Action][]any{On: {done}, Status: {isOn}}, "on status", 1, PowerOn, ""},
		{"reboot", Reboot, map[Action][]any{Reboot: {done}, Status: {isOn}}, "reboot status", 1, PowerOn, ""},
		{"stays off", Reboot, map[Action][]any{Reboot: {done}, Status: {isOff}}, "reboot status", 1, PowerOff, ""},
		{"second attempt", Off, map[Action][]any{Off: {broken, done}, Status: {isOff}}, "off off status", 2, PowerOff, ""},
		{"never", Off, map[Action][]any{Off: {broken}}, "off off off", 3, PowerUnknown, "attempt 3: exit code 1: Connection timed out"},
		{"a liar", Off, map[Action][]any{Off: {done}, Status: {isOn}}, "off status off status off status", 3, PowerOn, "and then that the machine is on"},
		{"a liar once", Off, map[Action][]any{Off: {done}, Status: {isOn, isOff}}, "off status off status", 2, PowerOff, ""},
		{"no status", Off, map[Action][]any{Off: {done}, Status: {broken}}, "off status off status off status", 3, PowerUnknown, "its status is not known: exit code 1"},
		{"cannot start", Off, map[Action][]any{Off: {errors.New("out of memory")}}, "off off off", 3, PowerUnknown, "out of memory"},
		{"not installed", Off, map[Action][]any{Off: {ErrNotInstalled}}, "off", 1, PowerUnknown, "not installed"},
		{"bad arguments", Off, map[Action][]any{Off: {Result{Exit: 2}}}, "off off off", 3, PowerUnknown, "it does not understand its parameters"},
	} {
		f, agent, clock := newTestFencer(t, c.answers)
		var out Outcome
		var err error
		eventually(t, clock, func() { out, err = f.Switch(t.Context(), "n2", c.action) })
		if got := strings.Join(agent.asked, " "); got != c.asked {
			t.Errorf("%s: asked for %q, want %q", c.name, got, c.asked)
		}
		if out.Attempts != c.attempts || out.Power != c.power {
			t.Errorf("%s: %+v, want %d attempts and power %v", c.name, out, c.attempts, c.power)
		}
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !strings.HasPrefix(err.Error(), "fence n2: fence_fake ")):
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

// TestFencerPauses: the first pause is as configured, and each next twice as long.
func TestFencerPauses(t *testing.T) {
	f, _, clock := newTestFencer(t, map[Action][]any{Off: {broken}})
	began := clock.Now()
	var out Outcome
	eventually(t, clock, func() { out, _ = f.Switch(t.Context(), "n2", Off) })
	if took := clock.Now() - began; took < 3*time.Second || out.Took < 3*time.Second {
		t.Errorf("three attempts took %v (%v), less than pauses of 1 and 2 s", took, out.Took)
	}
}

func TestFencerTimeout(t *testing.T) {
	hang := func(ctx context.Context) { <-ctx.Done() }
	f, _, clock := newTestFencer(t, map[Action][]any{Off: {hang, done}, Status: {isOff}})
	var out Outcome
	var err error
	eventually(t, clock, func() { out, err = f.Switch(t.Context(), "n2", Off) })
	if err != nil || out.Attempts != 2 || out.Took < 60*time.Second {
		t.Errorf("%+v, %v", out, err)
	}
	f, _, clock = newTestFencer(t, map[Action][]any{Status: {hang}})
	eventually(t, clock, func() { _, err = f.Power(t.Context(), "n2") })
	if err == nil || !strings.Contains(err.Error(), "longer than 1m0s") {
		t.Error(err)
	}
}

func TestFencerCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f, agent, _ := newTestFencer(t, map[Action][]any{Off: {func(context.Context) { cancel() }}})
	if _, err := f.Switch(ctx, "n2", Off); !errors.Is(err, context.Canceled) || len(agent.asked) != 1 {
		t.Errorf("%v, asked %q", err, agent.asked)
	}
}

// TestFencerOneAtATime: two requests for a node do not cut into each other.
func TestFencerOneAtATime(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	block := func(context.Context) { close(entered); <-leave }
	f, agent, _ := newTestFencer(t, map[Action][]any{Status: {block}})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = f.Power(context.Background(), "n2") })
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Switch(ctx, "n2", Off); err == nil || !strings.Contains(err.Error(), "another request") {
		t.Error(err)
	}
	close(leave)
	wg.Wait()
	if !slices.Equal(agent.asked, []string{"status"}) {
		t.Errorf("asked %q", agent.asked)
	}
}

func TestFencerNoDevice(t *testing.T) {
	f, _, _ := newTestFencer(t, nil)
	if f.Can("n1") || !f.Can("n2") {
		t.Error("Can")
	}
	if _, err := f.Switch(t.Context(), "n1", Off); !errors.Is(err, ErrNoDevice) || !strings.Contains(err.Error(), "[fencing.node.n1]") {
		t.Error(err)
	}
	if _, err := f.Switch(t.Context(), "n2", Status); err == nil {
		t.Error("status switches a machine")
	}
}

const sampleMetadata = `<?xml version="1.0" ?>
<resource-agent name="fence_fake"><parameters>
<parameter name="ip" obsoletes="ipaddr"/><parameter name="passwd"/><parameter name="password" obsoletes="passwd"/><parameter name="plug_name"/>
</parameters><actions><action name="on"/><action name="off"/></actions></resource-agent>`

func TestFencerCheck(t *testing.T) {
	metadata := func(text string) map[Action][]any {
		return map[Action][]any{Metadata: {Result{Stdout: text}}, Monitor: {done}}
	}
	for _, c := range []struct {
		name    string
		answers map[Action][]any
		err     string
	}{
		{"fine", metadata(sampleMetadata), ""},
		{"unknown parameter", metadata(strings.ReplaceAll(sampleMetadata, "plug_name", "plug")), "it has no parameter Plug-Name"},
		{"no off", metadata(strings.ReplaceAll(sampleMetadata, `"off"`, `"list"`)), "cannot switch"},
		{"no XML", metadata("usage"), "not XML"},
		{"nothing", metadata("<a/>"), "no parameter"},
		{"not installed", map[Action][]any{Metadata: {ErrNotInstalled}}, "not installed"},
		{"metadata fail", map[Action][]any{Metadata: {broken}}, "Connection timed out"},
		{"no answer", map[Action][]any{Metadata: {Result{Stdout: sampleMetadata}}, Monitor: {broken}}, "Connection timed out"},
	} {
		f, _, _ := newTestFencer(t, c.answers)
		err := f.Check(t.Context(), "n2")
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !strings.HasPrefix(err.Error(), "[fencing.node.n2] fence_fake: ")) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

// TestFencerKeepsSecrets: what an agent prints about its parameters is not handed
// on.
func TestFencerKeepsSecrets(t *testing.T) {
	f, _, _ := newTestFencer(t, map[Action][]any{Status: {Result{Exit: 1, Stderr: "ERROR:root:login admin/hunter2 at 10.0.0.2 refused\n"}}})
	_, err := f.Power(t.Context(), "n2")
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "login admin/*** at 10.0.0.2 refused") {
		t.Error(err)
	}
	d := Device{Parameters: map[string]string{"password": "abc", "api_key": "abcdef"}}
	if got := d.redact("abcdef abc"); got != "*** ***" {
		t.Error(got)
	}
}

func TestAgentStdin(t *testing.T) {
	if got, want := sampleConfig.Node["n2"].stdin(Off), "action=off\nPlug-Name=7\nip=10.0.0.2\npassword=hunter2\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestExplain(t *testing.T) {
	long := strings.Repeat("é", maxExplanation)
	for _, c := range []struct {
		r    Result
		want string
	}{
		{broken, "exit code 1: Connection timed out"},
		{Result{Exit: 1, Stderr: "ERROR:root:Failed: a\n\n2026-01-01 10:00:00,001 ERROR: Failed: a\nWARNING: b\n"}, "exit code 1: Failed: a"},
		{Result{Exit: 1, Stderr: "Traceback:\n  line 3\nKeyError: 'x'\n"}, "exit code 1: KeyError: 'x'"},
		{Result{Exit: 1, Stdout: "Failed\n"}, "exit code 1: Failed"},
		{Result{Exit: 3}, "exit code 3: the device refuses the login"},
		{Result{Exit: 77}, "exit code 77"},
		{Result{Exit: 1, Stderr: "ERROR: " + long}, "exit code 1: " + long[:maxExplanation] + "…"},
	} {
		if got := c.r.explain(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.r, got, c.want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	device := func(agent string, parameters ...string) Config {
		d := Device{Agent: agent, Parameters: map[string]string{}}
		for _, p := range parameters {
			name, value, _ := strings.Cut(p, "=")
			d.Parameters[name] = value
		}
		return Config{Node: map[string]Device{"n2": d}}
	}
	for _, c := range []struct {
		cfg Config
		err string
	}{
		{Config{}, ""},
		{sampleConfig, ""},
		{device("/usr/local/sbin/fence_mine", "ssl-insecure=1"), ""},
		{device("fence_ipmilan", `password=it"s = fine # here`), ""},
		{Config{TimeoutSeconds: -1}, "timeout_seconds = -1"},
		{Config{Attempts: 1000}, "attempts = 1000"},
		{Config{PauseSeconds: 31}, "pause_seconds = 31"},
		{device(""), `[fencing.node.n2] agent = ""`},
		{device("reboot"), `agent = "reboot"`},
		{device("../fence_x"), `agent = "../fence_x"`},
		{device("fence_x -o off"), "agent ="},
		{device("fence_x", "action=on"), "parameter action: blkd sets"},
		{device("fence_x", "a b=on"), `parameter "a b"`},
		{device("fence_x", "#x=on"), `parameter "#x"`},
		{device("fence_x", "password=a\naction=on"), "parameter password: agents read one line"},
		{device("fence_x", "password= a"), "take away the spaces"},
		{device("fence_x", `password="a"`), "take away the spaces or quotes"},
	} {
		err := c.cfg.Validate()
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.err)
		}
		if _, made := NewFencer(c.cfg, nil, manualclock.New()); (made == nil) != (err == nil) {
			t.Errorf("%+v: a fencer is made: %v", c.cfg, made)
		}
	}
}
