package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"blkd/internal/statefile"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// world is a cluster of three nodes that may run a service, in a synctest bubble: the
// record and what runs where. It checks what managers do.
type world struct {
	mu     sync.Mutex
	rand   *rand.Rand
	dir    string
	record *metapb.Volume
	nodes  []*metapb.Node
	hosts  map[string]*host
	wrong  error // the first thing that must not happen
	calm   bool  // no step fails, and news come soon

	events []string
}

var steps = []string{"mount", "address", "database"}

// host is a node with its manager, or without.
type host struct {
	w       *world
	name    string
	life    *life
	granted bool            // it was given the volume, and has not given it up
	cause   bool            // something has happened for which it may stop
	runs    map[string]bool // steps
	clings  map[string]bool // steps that have failed to stop
	deaf    bool            // it hears no news
}

// life is one manager process.
type life struct {
	cancel context.CancelFunc
	ended  chan struct{}
	dead   bool // killed: nothing that it does has an effect any more
	follow func(*metapb.Volume, []*metapb.Node)
}

// course runs a service through a random course of events, and tells what went wrong.
func course(t *testing.T, seed uint64) (err error) {
	dir := t.TempDir()
	synctest.Test(t, func(*testing.T) { err = newWorld(seed, dir).run() })
	if err != nil {
		return fmt.Errorf("seed %d: %w", seed, err)
	}
	return nil
}

func newWorld(seed uint64, dir string) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 1)), dir: dir, hosts: map[string]*host{}}
	w.record = &metapb.Volume{Id: 1, Name: "pg", Number: 1, Attachment: &metapb.Attachment{Number: 1, Since: 1},
		Service: &metapb.Service{Wanted: "n1"}}
	for _, name := range []string{"n1", "n2", "n3"} {
		w.record.Service.Nodes = append(w.record.Service.Nodes, name)
		w.nodes = append(w.nodes, &metapb.Node{Name: name, Health: metapb.Health_HEALTH_UP})
		w.hosts[name] = &host{w: w, name: name, runs: map[string]bool{}, clings: map[string]bool{}}
	}
	return w
}

func (w *world) run() error {
	var news sync.WaitGroup
	ctx, end := context.WithCancel(context.Background())
	news.Go(func() { w.repeat(ctx) })
	for _, h := range w.hosts {
		h.start()
	}
	err := w.story()
	for _, h := range w.hosts {
		h.stop()
	}
	end()
	news.Wait()
	time.Sleep(time.Minute) // late news
	return errors.Join(w.wrong, err)
}

func (w *world) story() error {
	for range 3 {
		for range 10 {
			w.trouble()
			time.Sleep(time.Duration(w.number(60_000)) * time.Millisecond)
		}
		w.calmDown()
		time.Sleep(15 * time.Minute)
		if err := w.settled(); err != nil || w.wrong != nil {
			return err
		}
		w.calm = false
	}
	return nil
}

// number is a random one below n.
func (w *world) number(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}

func (w *world) chance(percent int) bool { return !w.calm && w.rand.IntN(100) < percent }

func (w *world) say(format string, args ...any) {
	w.events = append(w.events, fmt.Sprintf(format, args...))
}

// violated notes what must not happen, with what came before. w.mu is held.
func (w *world) violated(format string, args ...any) {
	if w.wrong == nil {
		w.wrong = fmt.Errorf(format+"; before: %v", append(args, w.events[max(0, len(w.events)-12):])...)
	}
}

// trouble is one thing that happens.
func (w *world) trouble() {
	h := w.hosts[fmt.Sprint("n", 1+w.number(3))]
	switch w.number(10) {
	case 0, 1, 2:
		w.change("wanted at "+h.name, func(r *metapb.Volume) { r.Service.Wanted = h.name })
	case 3:
		w.change("wanted nowhere", func(r *metapb.Volume) { r.Service.Wanted = "" })
	case 4:
		h.stop()
		h.start()
	case 5:
		h.crash()
		h.start()
	case 6:
		w.change("a stranger takes the volume", func(r *metapb.Volume) { hold(r, "stranger") })
		time.Sleep(10 * time.Second)
		w.change("the stranger goes", func(r *metapb.Volume) { hold(r, "") })
	case 7: // its blkd is dead, and it hears nobody
		w.setHealth(h, metapb.Health_HEALTH_DOWN, true)
		w.moveFrom(h.name)
	default:
		w.setHealth(h, metapb.Health_HEALTH_UP, false)
	}
}

func (w *world) calmDown() {
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	for _, h := range w.hosts {
		w.setHealth(h, metapb.Health_HEALTH_UP, false)
	}
}

// settled checks what holds when all has been calm for long.
func (w *world) settled() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	wanted := w.record.Service.Wanted
	holder := ""
	if wanted != "" {
		holder = Holder(wanted)
	}
	if w.record.Attachment.Holder != holder {
		return fmt.Errorf("wanted at %q, and %q holds the volume; before: %v", wanted, w.record.Attachment.Holder, w.events[max(0, len(w.events)-20):])
	}
	for _, h := range w.hosts {
		if (h.name == wanted) != (len(h.runs) == len(steps)) || h.name != wanted && len(h.runs) > 0 {
			return fmt.Errorf("wanted at %q, and on %s runs %v; before: %v", wanted, h.name, h.runs, w.events[max(0, len(w.events)-20):])
		}
		if env, err := LoadEnv(h.dir(), "pg"); h.name == wanted && statefile.Variable(env, statefile.Attachment) != fmt.Sprint(w.record.Attachment.Since) {
			return fmt.Errorf("%s holds the volume since %d, and has written down %v, %v", h.name, w.record.Attachment.Since, env, err)
		} else if h.name != wanted && err == nil {
			return fmt.Errorf("nothing runs on %s, and it has written down %v", h.name, env)
		}
	}
	return nil
}

// change makes the next record and tells all hosts, each after a while.
func (w *world) change(what string, f func(r *metapb.Volume)) *metapb.Volume {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changeLocked(what, f)
}

func (w *world) changeLocked(what string, f func(r *metapb.Volume)) *metapb.Volume {
	w.record = proto.CloneOf(w.record)
	w.record.Number++
	f(w.record)
	w.say("%d: %s", w.record.Number, what)
	for _, h := range w.hosts {
		if w.record.Service.Wanted != h.name || w.record.Attachment.Holder != Holder(h.name) {
			h.cause = true
		}
		h.tell(w.record, time.Duration(w.rand.IntN(5000))*time.Millisecond)
	}
	return w.record
}

// hold is what the quorum does with an attachment.
func hold(r *metapb.Volume, holder string) {
	a := r.Attachment
	a.Number++
	if a.Holder != holder || holder == "" {
		a.Since = a.Number
	}
	a.Holder = holder
}

// tell delivers a record. Which of two comes first is open. w.mu is held.
func (h *host) tell(r *metapb.Volume, after time.Duration) {
	l := h.life
	if l == nil || h.deaf {
		return
	}
	time.AfterFunc(after, func() {
		h.w.mu.Lock()
		follow, nodes := l.follow, h.w.nodes
		deaf := h.deaf || l.dead
		h.w.mu.Unlock()
		if follow != nil && !deaf {
			follow(r, nodes)
		}
	})
}

// repeat tells everybody the newest record again and again.
func (w *world) repeat(ctx context.Context) {
	for ctx.Err() == nil {
		w.mu.Lock()
		for _, h := range w.hosts {
			h.tell(w.record, 0)
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
		}
	}
}

func (w *world) setHealth(h *host, health metapb.Health, deaf bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	nodes := []*metapb.Node{}
	for _, n := range w.nodes {
		if n.Name == h.name {
			n = &metapb.Node{Name: h.name, Health: health}
		}
		nodes = append(nodes, n)
	}
	w.nodes, h.deaf = nodes, deaf
	h.tell(w.record, 0)
}

// moveFrom is what the steward does when a node is down.
func (w *world) moveFrom(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.record.Service.Wanted != name {
		return
	}
	for _, n := range w.nodes {
		if n.Health == metapb.Health_HEALTH_UP {
			w.changeLocked(name+" is down, wanted at "+n.Name, func(r *metapb.Volume) { r.Service.Wanted = n.Name })
			return
		}
	}
}

func (h *host) dir() string { return filepath.Join(h.w.dir, h.name) }

func (h *host) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{cancel: cancel, ended: make(chan struct{})}
	h.w.mu.Lock()
	h.life = l
	h.w.say("%s starts", h.name)
	h.w.mu.Unlock()
	cfg := &Config{Volume: "pg"}
	for _, name := range steps {
		cfg.Steps = append(cfg.Steps, Step{Name: name, Start: "x", Stop: "x"})
	}
	if err := cfg.complete(); err != nil {
		panic(err)
	}
	a := &actor{h: h, l: l}
	go func() {
		defer close(l.ended)
		Run(ctx, Options{Config: cfg, Node: h.name, Dir: h.dir(), Cluster: a, Runner: a, Log: slog.New(slog.DiscardHandler)})
	}()
}

// stop ends the manager in order.
func (h *host) stop() {
	h.w.mu.Lock()
	h.cause = true
	h.w.say("%s is told to stop", h.name)
	h.w.mu.Unlock()
	h.life.cancel()
	<-h.life.ended
}

// crash ends it so that it can do nothing any more. What runs goes on.
func (h *host) crash() {
	h.w.mu.Lock()
	h.life.dead, h.granted = true, false
	h.w.say("%s is killed", h.name)
	h.w.mu.Unlock()
	h.life.cancel()
	<-h.life.ended
}

// actor is the cluster and the runner of one manager.
type actor struct {
	h *host
	l *life
}

var errDead = errors.New("killed")

func (a *actor) Follow(ctx context.Context, f func(*metapb.Volume, []*metapb.Node)) {
	w := a.h.w
	w.mu.Lock()
	a.l.follow = f
	w.mu.Unlock()
	<-ctx.Done()
	w.mu.Lock()
	a.l.follow = nil
	w.mu.Unlock()
}

// do takes a while and then does f, unless ctx has ended or the manager was killed.
func (a *actor) do(ctx context.Context, f func() error) error {
	w := a.h.w
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Duration(w.number(8000)) * time.Millisecond):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.l.dead {
		return errDead
	}
	return f()
}

func (a *actor) Hold(ctx context.Context, takeover bool, _ uint64) (held *Held, err error) {
	w, h := a.h.w, a.h
	err = a.do(ctx, func() error {
		if now := w.record.Attachment.Holder; now != "" && now != Holder(h.name) && !takeover {
			return ErrHeld
		}
		h.granted, h.cause = true, false
		held = &Held{Env: []string{statefile.URI + "=nbd://x/pg"}}
		held.Record = w.changeLocked(h.name+" holds", func(r *metapb.Volume) { hold(r, Holder(h.name)) })
		h.cause = w.record.Service.Wanted != h.name
		return nil
	})
	return held, err
}

func (a *actor) Release(ctx context.Context) error {
	w, h := a.h.w, a.h
	return a.do(ctx, func() error {
		if w.record.Attachment.Holder != Holder(h.name) {
			return nil
		}
		if len(h.runs) > 0 {
			w.violated("%s gives the volume up, and still runs %v", h.name, h.runs)
		}
		h.granted = false
		w.changeLocked(h.name+" releases", func(r *metapb.Volume) { hold(r, "") })
		return nil
	})
}

func (a *actor) MoveAway(ctx context.Context, _ string) error {
	return a.do(ctx, func() error {
		if a.h.w.record.Service.Wanted == a.h.name {
			a.h.w.changeLocked("wanted away from "+a.h.name, func(r *metapb.Volume) { r.Service.Wanted = r.Service.Nodes[a.h.w.rand.IntN(3)] })
		}
		return nil
	})
}

func (a *actor) Run(ctx context.Context, s *Step, what Action, env []string) error {
	w, h := a.h.w, a.h
	half := false // it was broken off
	err := a.do(ctx, func() error {
		w.say("%s: %s %s", h.name, what, s.Name)
		switch what {
		case Start:
			return h.startStep(s.Name, env)
		case Stop:
			return h.stopStep(s.Name)
		}
		if w.chance(3) || !h.runs[s.Name] {
			h.cause = true
			return errors.New("it does not run")
		}
		return nil
	})
	if err != nil && what == Start && ctx.Err() != nil {
		w.mu.Lock()
		if half = w.chance(50); half && !a.l.dead {
			h.runs[s.Name] = true
		}
		w.mu.Unlock()
	}
	return err
}

func (h *host) startStep(name string, env []string) error {
	if !h.granted {
		h.w.violated("%s starts %s without the volume", h.name, name)
	}
	if i := slices.Index(steps, name); i > 0 && !h.runs[steps[i-1]] {
		h.w.violated("%s starts %s before %s", h.name, name, steps[i-1])
	}
	if written, err := os.ReadFile(EnvFile(h.dir(), "pg")); err != nil || statefile.Variable(env, statefile.Attachment) == "" {
		h.w.violated("%s starts %s with %v, and has written down %q, %v", h.name, name, env, written, err)
	}
	if h.w.chance(10) {
		h.cause = true
		return errors.New("it does not start")
	}
	h.runs[name] = true
	return nil
}

func (h *host) stopStep(name string) error {
	if !h.cause {
		h.w.violated("%s stops %s for no reason", h.name, name)
	}
	for _, later := range steps[slices.Index(steps, name)+1:] {
		if h.runs[later] && !h.clings[later] {
			h.w.violated("%s stops %s before %s", h.name, name, later)
		}
	}
	if h.w.chance(15) {
		h.clings[name] = true
		return errors.New("it does not stop")
	}
	delete(h.runs, name)
	delete(h.clings, name)
	return nil
}
