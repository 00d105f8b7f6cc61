package fencing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blkd/internal/env"
)

// ErrNoDevice tells that nothing is configured to switch a node.
var ErrNoDevice = errors.New("no fence device is configured for it")

// Runner runs a fence agent with the given standard input until it ends or ctx
// does. It returns an error if the agent could not be run, or ctx ended; an agent
// that fails is a Result. [RunAgent] is the real one.
type Runner func(ctx context.Context, agent, stdin string) (Result, error)

// Outcome is what became of a request.
type Outcome struct {
	Node     string
	Action   Action
	Agent    string
	Attempts int           // runs of the agent for the action
	Took     time.Duration // all of it, pauses included
	Power    Power         // what the agent said afterwards
}

// Fencer switches machines through fence agents. It is an instrument of the
// operator and never on the path of safety: that a node is off lets nothing happen
// that a promise, a lease or the quorum does not let happen. It is safe for
// concurrent use; requests for one node run one after another.
type Fencer struct {
	cfg   Config
	run   Runner
	clock env.Clock
	busy  map[string]chan struct{} // by node, of capacity 1
}

// NewFencer makes a fencer of a configuration, which it validates.
func NewFencer(cfg Config, run Runner, clock env.Clock) (*Fencer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	f := &Fencer{cfg: cfg.withDefaults(), run: run, clock: clock, busy: map[string]chan struct{}{}}
	for node := range cfg.Node {
		f.busy[node] = make(chan struct{}, 1)
	}
	return f, nil
}

// Can tells whether a device is configured for a node.
func (f *Fencer) Can(node string) bool { return f.busy[node] != nil }

// Switch does Off, On or Reboot and confirms it by asking for the status. It tries
// again, with pauses, until that succeeds, the configured attempts are used up, or
// ctx ends. Off and On of a machine that is off or on already succeed. After Reboot
// the outcome tells whether the machine has come on again; that it has not is no
// error, for it was off.
func (f *Fencer) Switch(ctx context.Context, node string, a Action) (Outcome, error) {
	out := Outcome{Node: node, Action: a, Agent: f.cfg.Node[node].Agent}
	if a != Off && a != On && a != Reboot {
		return out, fmt.Errorf("fence %s: %q does not switch a machine", node, a)
	}
	release, err := f.acquire(ctx, node)
	if err != nil {
		return out, fmt.Errorf("fence %s: %w", node, err)
	}
	defer release()
	began := f.clock.Now()
	err = f.insist(ctx, &out)
	out.Took = f.clock.Now() - began
	if err != nil {
		return out, fmt.Errorf("fence %s: %s %s, attempt %d: %w", node, out.Agent, a, out.Attempts, err)
	}
	return out, nil
}

// insist tries until it has worked.
func (f *Fencer) insist(ctx context.Context, out *Outcome) error {
	pause := time.Duration(f.cfg.PauseSeconds) * time.Second
	for {
		out.Attempts++
		err := f.try(ctx, out)
		if err == nil || errors.Is(err, ErrNotInstalled) || ctx.Err() != nil || out.Attempts == f.cfg.Attempts {
			return err
		}
		if err := f.sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, maxPause)
	}
}

// try is one attempt.
func (f *Fencer) try(ctx context.Context, out *Outcome) error {
	r, err := f.ask(ctx, out.Node, out.Action)
	if err != nil {
		return err
	}
	if r.Exit != 0 {
		return f.failure(out.Node, r)
	}
	r, err = f.ask(ctx, out.Node, Status)
	if err != nil {
		return fmt.Errorf("done, but its status is not known: %w", err)
	}
	out.Power = r.power()
	switch want := map[Action]Power{Off: PowerOff, On: PowerOn}[out.Action]; {
	case out.Power == PowerUnknown:
		return fmt.Errorf("done, but its status is not known: %w", f.failure(out.Node, r))
	case want != PowerUnknown && out.Power != want:
		return fmt.Errorf("the agent says that it has done it, and then that the machine is %s", out.Power)
	}
	return nil
}

// Power asks whether a node's machine is on.
func (f *Fencer) Power(ctx context.Context, node string) (Power, error) {
	r, err := f.askAlone(ctx, node, Status)
	if err == nil && r.power() == PowerUnknown {
		err = f.failure(node, r)
	}
	if err != nil {
		return PowerUnknown, fmt.Errorf("power of %s: %w", node, err)
	}
	return r.power(), nil
}

// Check tells whether a node could be fenced now: the agent is installed, knows the
// parameters, and its device answers. It changes nothing. Run it before it counts,
// and now and then.
func (f *Fencer) Check(ctx context.Context, node string) error {
	err := f.check(ctx, node)
	if err != nil {
		return fmt.Errorf("[fencing.node.%s] %s: %w", node, f.cfg.Node[node].Agent, err)
	}
	return nil
}

func (f *Fencer) check(ctx context.Context, node string) error {
	r, err := f.askAlone(ctx, node, Metadata)
	if err != nil {
		return err
	}
	if r.Exit != 0 {
		return f.failure(node, r)
	}
	m, err := parseMetadata(r.Stdout)
	if err != nil {
		return err
	}
	if err := m.check(f.cfg.Node[node]); err != nil {
		return err
	}
	if r, err = f.askAlone(ctx, node, Monitor); err == nil && r.Exit != 0 {
		err = f.failure(node, r)
	}
	return err
}

// failure is the error of an agent that did not do what it was asked for.
func (f *Fencer) failure(node string, r Result) error {
	return errors.New(f.cfg.Node[node].redact(r.explain()))
}

// acquire waits until no other request for the node is under way.
func (f *Fencer) acquire(ctx context.Context, node string) (release func(), err error) {
	busy := f.busy[node]
	if busy == nil {
		return nil, fmt.Errorf("%w; add [fencing.node.%s] with an agent and its parameters", ErrNoDevice, node)
	}
	select {
	case busy <- struct{}{}:
		return func() { <-busy }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("another request for it is under way: %w", ctx.Err())
	}
}

func (f *Fencer) askAlone(ctx context.Context, node string, a Action) (Result, error) {
	release, err := f.acquire(ctx, node)
	if err != nil {
		return Result{}, err
	}
	defer release()
	return f.ask(ctx, node, a)
}

// ask runs the agent once, for the configured time at most.
func (f *Fencer) ask(ctx context.Context, node string, a Action) (Result, error) {
	limit := time.Duration(f.cfg.TimeoutSeconds) * time.Second
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := f.clock.AfterFunc(limit, func() {
		cancel(fmt.Errorf("the agent took longer than %v and was killed; raise [fencing] timeout_seconds if that is too short", limit))
	})
	defer timer.Stop()
	d := f.cfg.Node[node]
	r, err := f.run(ctx, d.Agent, d.stdin(a))
	if cause := context.Cause(ctx); cause != nil {
		return Result{}, cause
	}
	return r, err
}

// sleep waits unless ctx ends.
func (f *Fencer) sleep(ctx context.Context, d time.Duration) error {
	over := make(chan struct{})
	timer := f.clock.AfterFunc(d, func() { close(over) })
	defer timer.Stop()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
