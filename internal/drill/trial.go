package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"blkd/metadata/metapb"
)

// Outcomes of a drill.
const (
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Result is what a drill has shown.
type Result struct {
	Name        string   `json:"name"`
	Text        string   `json:"text"`
	Expectation string   `json:"expectation"`
	Outcome     string   `json:"outcome"`       // passed, failed or skipped
	Why         []string `json:"why,omitempty"` // it failed or was skipped
	Node        string   `json:"node,omitempty"`
	// Primary and Generation are those of the volume, before and after.
	PrimaryBefore    string `json:"primary_before,omitempty"`
	PrimaryAfter     string `json:"primary_after,omitempty"`
	GenerationBefore uint64 `json:"generation_before,omitempty"`
	GenerationAfter  uint64 `json:"generation_after,omitempty"`
	// DetectionSeconds is from the disturbance to the first change of the volume's
	// record, by the clocks of this machine and of the node that made it; null: there
	// was none.
	DetectionSeconds *float64 `json:"detection_seconds"`
	// StallSeconds is the longest time in which no write of clients of other nodes was
	// acknowledged.
	StallSeconds float64 `json:"stall_seconds"`
	// RecoverySeconds is from the end of the disturbance until every replica was up to
	// date.
	RecoverySeconds float64 `json:"recovery_seconds"`
	Writes          int     `json:"writes"`      // acknowledged
	Disconnects     int64   `json:"disconnects"` // of clients of other nodes
	Operations      int     `json:"operations"`  // whose history was checked
	Lost            int     `json:"lost"`        // 0, or 1 if what clients were told cannot be
	Violation       string  `json:"violation,omitempty"`
	// Availability is what remains of a year if this happens once in the mean time
	// between failures, and Nines how many nines it has.
	Availability float64   `json:"availability"`
	Nines        float64   `json:"nines"`
	Timeline     *Timeline `json:"timeline,omitempty"`
}

// Timeline is what happened when, in seconds from its begin.
type Timeline struct {
	StepSeconds float64  `json:"step_seconds"`
	Writes      []int    `json:"writes"`      // acknowledged in each step
	Disconnects []int64  `json:"disconnects"` // of all clients, in each step
	Changes     []Change `json:"changes"`
}

// Change is something that happened.
type Change struct {
	Seconds float64 `json:"seconds"`
	Text    string  `json:"text"`
}

// timelineStep is the resolution of a time line.
const timelineStep = 100 * time.Millisecond

// trial is a drill that is held.
type trial struct {
	*Cluster
	hands  Hands
	drill  *Drill
	volume string
	result *Result
	began  time.Time
	// incarnation is that of the node's run that is disturbed.
	incarnation uint64
	fast        func() error // ends what needs many actions a second

	mu   sync.Mutex
	last time.Time // a write was acknowledged to a client of another node
	gap  time.Duration
	sent []time.Time // by client: when the latest sent acknowledged write was sent
}

// Run holds one drill on a volume. The result tells whether it went as expected; the
// error, why it could not be held or ended.
func (c *Cluster) Run(ctx context.Context, d *Drill, h Hands, volume string) (*Result, error) {
	t := &trial{Cluster: c, hands: h, drill: d, volume: volume,
		result: &Result{Name: d.Name, Text: d.Text, Expectation: d.Expectation(), Timeline: &Timeline{StepSeconds: timelineStep.Seconds(), Changes: []Change{}}}}
	if why := d.possible(h); why != "" {
		t.result.Outcome, t.result.Why, t.result.Timeline = Skipped, []string{why}, nil
		return t.result, nil
	}
	if err := t.hold(ctx); err != nil {
		return t.result, fmt.Errorf("drill %s: %w", d.Name, err)
	}
	t.judge()
	return t.result, nil
}

// Sound waits until the cluster can bear a drill, for as long as it may take by itself.
func (c *Cluster) Sound(ctx context.Context, limit time.Duration) error {
	return until(ctx, limit, c.sound)
}

func (t *trial) hold(ctx context.Context) error {
	r, err := t.roles(ctx, t.volume)
	if err != nil {
		return err
	}
	t.result.Node = t.drill.victim(r)
	t.result.PrimaryBefore, t.result.GenerationBefore, err = t.record(ctx)
	if err != nil {
		return err
	}
	n, err := t.victim(ctx)
	if err != nil {
		return err
	}
	t.incarnation = n.GetIncarnation()
	t.began = time.Now()
	t.last, t.sent = t.began, make([]time.Time, len(t.clients()))
	crowd, err := t.crowd(ctx, t.volume, t.acknowledged)
	if err != nil {
		return err
	}
	sampling, stop := context.WithCancel(ctx)
	defer stop()
	go crowd.Follow(sampling, func(ctx context.Context) (*metapb.History, error) { return t.history(ctx, t.volume) })
	sampled := make(chan struct{})
	go func() { defer close(sampled); t.sample(sampling, crowd.Writes) }()
	held := t.disturb(ctx)
	stop()
	<-sampled
	// The cluster is to be left as it was, whatever happened.
	ctx = context.WithoutCancel(ctx)
	violation, err := t.verdict(ctx, t.volume, crowd)
	if err := errors.Join(held, err); err != nil {
		return err
	}
	t.result.Operations = crowd.History().Len()
	if violation != nil {
		t.result.Lost, t.result.Violation = 1, violation.Error()
	}
	for i, n := range t.clients() {
		if _, broken := crowd.Writes(i); n.Name != t.result.Node {
			t.result.Disconnects += broken
		}
	}
	t.result.PrimaryAfter, t.result.GenerationAfter, err = t.record(ctx)
	return err
}

const calm = 2 * time.Second // before and after a disturbance

// disturb does it, and waits until all is well again.
func (t *trial) disturb(ctx context.Context) error {
	if err := t.served(ctx, t.began); err != nil {
		return err
	}
	t.forget()
	if err := pause(ctx, calm); err != nil {
		return err
	}
	at := time.Now()
	t.note(at, t.drill.Text+" ("+t.result.Node+")")
	if err := t.drill.do(t, ctx); err != nil {
		return err
	}
	served := t.served(ctx, time.Now())
	var waited error
	if t.drill.undo != nil && served == nil {
		waited = pause(ctx, held-time.Since(at))
	}
	ended := time.Now()
	if t.drill.undo != nil {
		if err := errors.Join(t.drill.undo(t, context.WithoutCancel(ctx)), waited); err != nil {
			return errors.Join(err, served)
		}
		ended = time.Now()
		t.note(ended, "it is over")
	}
	if served != nil {
		return served
	}
	if err := t.absent(ctx); err != nil {
		return err
	}
	if err := t.Sound(ctx, patience); err != nil {
		return err
	}
	t.result.RecoverySeconds = time.Since(ended).Seconds()
	t.note(time.Now(), "all replicas are up to date")
	if err := pause(ctx, calm); err != nil {
		return err
	}
	t.settle(time.Now())
	return t.changes(ctx, at)
}

// absent waits until it is known that a node is gone that was killed, or is back: the
// records do not tell so at once.
func (t *trial) absent(ctx context.Context) error {
	if !slices.Contains(t.drill.needs, Kill) {
		return nil
	}
	return until(ctx, patience, func(ctx context.Context) error {
		n, err := t.victim(ctx)
		if err == nil && n.GetHealth() == metapb.Health_HEALTH_UP && n.GetIncarnation() == t.incarnation {
			err = errors.New("nobody has noticed that node " + t.result.Node + " is gone")
		}
		return err
	})
}

// victim is the record of the node that is disturbed.
func (t *trial) victim(ctx context.Context) (*metapb.Node, error) {
	s, err := t.status(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range s.Nodes {
		if n.Record.GetName() == t.result.Node {
			return n.Record, nil
		}
	}
	return nil, errors.New("there is no node " + t.result.Node)
}

// acknowledged takes in that a client of a node got a write acknowledged.
func (t *trial) acknowledged(client int, sent time.Time) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Writes++
	step := int(now.Sub(t.began) / timelineStep)
	for len(t.result.Timeline.Writes) <= step {
		t.result.Timeline.Writes = append(t.result.Timeline.Writes, 0)
	}
	t.result.Timeline.Writes[step]++
	if t.clients()[client].Name == t.result.Node && t.drill.needs != nil {
		return
	}
	t.gap, t.last = max(t.gap, now.Sub(t.last)), now
	if sent.After(t.sent[client]) {
		t.sent[client] = sent
	}
}

// forget forgets how long clients have waited.
func (t *trial) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gap = 0
}

// settle takes in how long clients have waited until now.
func (t *trial) settle(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.StallSeconds = max(t.gap, now.Sub(t.last)).Seconds()
}

// served waits until every client of another node has got a write acknowledged that it
// sent after a moment.
func (t *trial) served(ctx context.Context, after time.Time) error {
	return until(ctx, patience, func(context.Context) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for i, n := range t.clients() {
			if (n.Name != t.result.Node || t.drill.needs == nil) && !t.sent[i].After(after) {
				return errors.New("the client of node " + n.Name + " is not served")
			}
		}
		return nil
	})
}

// note writes something on the time line.
func (t *trial) note(at time.Time, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Timeline.Changes = append(t.result.Timeline.Changes, Change{at.Sub(t.began).Seconds(), text})
}

// sample notes how often clients were disconnected.
func (t *trial) sample(ctx context.Context, writes func(int) (int64, int64)) {
	before := int64(0)
	for step := 1; ; step++ {
		if pause(ctx, time.Until(t.began.Add(time.Duration(step)*timelineStep))) != nil {
			return
		}
		now := int64(0)
		for i := range t.clients() {
			_, broken := writes(i)
			now += broken
		}
		t.mu.Lock()
		t.result.Timeline.Disconnects = append(t.result.Timeline.Disconnects, now-before)
		t.mu.Unlock()
		before = now
	}
}

func (t *trial) record(ctx context.Context) (primary string, generation uint64, err error) {
	v, err := t.show(ctx, t.volume)
	return v.GetRecord().GetPrimary(), v.GetRecord().GetGeneration(), err
}

// changes puts the changes of the volume's record since a moment on the time line.
func (t *trial) changes(ctx context.Context, since time.Time) error {
	h, err := t.history(ctx, t.volume)
	if err != nil {
		return err
	}
	for _, e := range h.Entries {
		at := time.Unix(0, e.Time)
		if at.Before(since) {
			continue
		}
		t.note(at, fmt.Sprintf("generation %d: %s", e.Generation, e.What))
		if seconds := at.Sub(since).Seconds(); t.result.DetectionSeconds == nil {
			t.result.DetectionSeconds = &seconds
		}
		if c := e.Certificate; c != nil && c.Serving != nil {
			t.note(c.Serving.AsTime(), fmt.Sprintf("generation %d serves", e.Generation))
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.result.Timeline.Changes, func(a, b Change) int {
		switch {
		case a.Seconds < b.Seconds:
			return -1
		case a.Seconds > b.Seconds:
			return 1
		}
		return 0
	})
	return nil
}

// judge compares with what was expected.
func (t *trial) judge() {
	r := t.result
	if r.Lost > 0 {
		r.Why = append(r.Why, "what clients were told cannot be")
	}
	if r.Disconnects > 0 {
		r.Why = append(r.Why, fmt.Sprintf("clients of other nodes were disconnected %d times", r.Disconnects))
	}
	if r.StallSeconds > t.drill.Stall.Seconds() {
		r.Why = append(r.Why, fmt.Sprintf("clients waited %.1f s, expected are %v at the most", r.StallSeconds, t.drill.Stall))
	}
	r.Outcome = Passed
	if len(r.Why) > 0 {
		r.Outcome = Failed
	}
}
