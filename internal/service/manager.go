package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"blkd/internal/mutant"
	"blkd/internal/statefile"
	"blkd/metadata/metapb"
)

// Holder is the name under which a node holds volumes for their services.
func Holder(node string) string { return metapb.ServiceOf(node) }

// Cluster is what a Manager asks the cluster for. Its calls return when ctx ends.
type Cluster interface {
	// Follow calls f, one call at a time, with what nodes tell of the volume's record and
	// of the nodes, newer and older, until ctx ends.
	Follow(ctx context.Context, f func(*metapb.Volume, []*metapb.Node))
	// Hold makes Holder(node) the holder of the volume, with takeover also if another
	// one is, and returns when the volume can be used. ErrHeld: another client has it.
	// What an earlier Hold has left, a device or sessions of clients, goes on only if the
	// node has had the volume ever since the attachment keep; else a device is removed
	// first, with what it has not written.
	Hold(ctx context.Context, takeover bool, keep uint64) (*Held, error)
	// Release gives the volume up, if Holder(node) has it. Nothing of this node uses it.
	Release(ctx context.Context) error
	// MoveAway asks that the service run on another node than this one.
	MoveAway(ctx context.Context, reason string) error
}

// Held is a volume that this node holds.
type Held struct {
	Record *metapb.Volume // as of then
	Env    []string       // where the volume is: statefile.Device or statefile.URI
	Lost   <-chan error   // told when the volume cannot be used any more; nil: only the record tells
}

// ErrHeld tells that another client holds the volume.
var ErrHeld = errors.New("another client holds the volume")

// Options are what a Manager needs. All fields must be set.
type Options struct {
	Config  *Config
	Node    string // its name in the cluster
	Dir     string // of State and EnvFile
	Cluster Cluster
	Runner  Runner
	Log     *slog.Logger
}

const (
	statusEvery  = 10 * time.Second
	statusTime   = 20 * time.Second
	askTime      = 30 * time.Second
	heldPause    = 5 * time.Second // between two questions for a volume that a stranger has
	retryLeast   = time.Second
	retryMost    = time.Minute
	failuresMost = 3               // in a row; then another node shall try
	calmTime     = 5 * time.Minute // of running forgets failures
)

// Why a service ends here. Errors of steps are others.
var (
	errLost      = errors.New("another client has taken the volume over")
	errElsewhere = errors.New("it shall run elsewhere")
)

// Manager runs a volume's service on this node whenever it is wanted here.
type Manager struct {
	Options
	state    State
	leftover uint64 // attachment under which an earlier manager has started things; 0: none

	mu      sync.Mutex
	record  *metapb.Volume // newest
	nodes   []*metapb.Node
	changed chan struct{} // closed at the next change
}

// Run manages the service until ctx ends; then it stops what runs, and gives the volume
// up. ErrRunning: another process does that. Other errors: something did not stop.
func Run(ctx context.Context, o Options) error {
	held, err := lock(o.Dir, o.Config.Volume)
	if err != nil {
		return err
	}
	defer held.Close()
	m := &Manager{Options: o, changed: make(chan struct{}),
		state: State{Volume: o.Config.Volume, Node: o.Node, PID: os.Getpid(), Started: []string{}}}
	defer os.Remove(stateFile(o.Dir, o.Config.Volume))
	follow, end := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { o.Cluster.Follow(follow, m.learn) })
	defer following.Wait()
	defer end()
	if err := m.settleLeftover(ctx); err != nil {
		return err
	}
	for {
		takeover, err := m.turn(ctx)
		if err != nil {
			return m.leave(ctx)
		}
		if err := m.serve(ctx, takeover); ctx.Err() != nil {
			return err
		} else if err != nil {
			m.pause(ctx, err)
		}
	}
}

// learn keeps the newest record. Of a volume that was made again under the same name
// the id is higher.
func (m *Manager) learn(r *metapb.Volume, nodes []*metapb.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.record; old != nil && (r.Id < old.Id || r.Id == old.Id && r.Number < old.Number) && !mutant.On(mutant.ServiceOldNews) {
		return
	}
	m.record = r
	if nodes != nil {
		m.nodes = nodes
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// now is the newest record, nil before the first, and what is closed at the next change.
func (m *Manager) now() (*metapb.Volume, []*metapb.Node, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record, m.nodes, m.changed
}

// tell says how far the service is.
func (m *Manager) tell(p Phase, err error) {
	m.state.Phase, m.state.Error = p, ""
	if err != nil {
		m.state.Error = err.Error()
	}
	if err := m.state.save(m.Dir); err != nil {
		m.Log.Warn("the state of the service was not written down", "volume", m.state.Volume, "err", err)
	}
}

// holds tells whether this node is the holder by a record.
func (m *Manager) holds(r *metapb.Volume) bool {
	return r.GetAttachment().GetHolder() == Holder(m.Node)
}

// settleLeftover stops what an earlier manager has left running, unless that is still
// what should run: then its steps are started once more, which changes nothing. If ctx
// ends before anybody tells, it is stopped.
func (m *Manager) settleLeftover(ctx context.Context) error {
	since, err := leftover(m.Dir, m.Config.Volume)
	if since == 0 || err != nil {
		return err
	}
	r, _, changed := m.now()
	for r == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-changed:
		}
		r, _, changed = m.now()
	}
	if m.holds(r) && r.Attachment.Since == since && r.GetService().GetWanted() == m.Node && ctx.Err() == nil {
		m.leftover = since
		m.Log.Info("taking over what an earlier manager has started", "volume", m.Config.Volume, "attachment", since)
		return nil
	}
	env, err := LoadEnv(m.Dir, m.Config.Volume)
	if err != nil {
		return err
	}
	m.Log.Info("stopping what an earlier manager has started", "volume", m.Config.Volume, "attachment", since)
	m.leftover = 0
	return m.stopAll(ctx, len(m.Config.Steps), env)
}

// turn returns when this node should take the volume, and whether from another one. The
// error is that of ctx.
func (m *Manager) turn(ctx context.Context) (takeover bool, err error) {
	var late <-chan time.Time // for the holder before to give the volume up
	for {
		r, nodes, changed := m.now()
		var again <-chan time.Time
		switch holder := r.GetAttachment().GetHolder(); {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case r.GetService().GetWanted() != m.Node:
			late = nil
			m.tell(Idle, nil)
			if m.holds(r) {
				m.release(ctx)
				again = time.After(heldPause)
			}
		case holder == "" || m.holds(r):
			return false, nil
		case m.sibling(r, holder) == "":
			return false, nil // a stranger: only if it lets go
		case nodeDown(nodes, m.sibling(r, holder)):
			return true, nil
		default:
			m.tell(Waiting, fmt.Errorf("%s has not given the volume up yet", holder))
			if late == nil {
				late = time.After(time.Duration(m.Config.Takeover))
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again:
		case <-late:
			return true, nil
		}
	}
}

// sibling is the node that holds the volume for the same service; empty: a stranger does.
func (m *Manager) sibling(r *metapb.Volume, holder string) string {
	for _, name := range r.GetService().GetNodes() {
		if Holder(name) == holder {
			return name
		}
	}
	return ""
}

func nodeDown(nodes []*metapb.Node, name string) bool {
	for _, n := range nodes {
		if n.Name == name {
			return n.Health == metapb.Health_HEALTH_DOWN
		}
	}
	return false
}

// serve holds the volume and runs the steps until that must end, for the reason that it
// returns, or ctx does.
func (m *Manager) serve(ctx context.Context, takeover bool) error {
	m.tell(Attaching, nil)
	run, end := context.WithCancelCause(ctx)
	defer end(nil)
	go m.watch(run, end, nil, func(r *metapb.Volume) error {
		if r.GetService().GetWanted() != m.Node {
			return errElsewhere
		}
		return nil
	})
	held, err := m.Cluster.Hold(run, takeover, m.leftover)
	if err != nil {
		if errors.Is(context.Cause(run), errElsewhere) {
			err = nil
		}
		return errors.Join(err, m.settleLeftover(ctx))
	}
	m.learn(held.Record, nil)
	m.state.Attachment = held.Record.Attachment.Since
	env := append([]string{statefile.Volume + "=" + m.Config.Volume, fmt.Sprintf("%s=%d", statefile.Attachment, m.state.Attachment),
		statefile.Holder + "=" + Holder(m.Node)}, held.Env...)
	may := 0 // so many steps may run
	if m.leftover != 0 {
		may = len(m.Config.Steps)
	}
	if may > 0 && m.leftover != m.state.Attachment {
		if err := m.stopAll(ctx, may, env); err != nil {
			return err
		}
		may = 0
	}
	go m.watch(run, end, held.Lost, func(r *metapb.Volume) error {
		if r.Id == held.Record.Id && m.holds(r) && r.Attachment.Since <= held.Record.Attachment.Since || mutant.On(mutant.ServiceKeepLost) {
			return nil
		}
		return errLost
	})

	begun, why := m.work(run, env)
	if ended := context.Cause(run); ended != nil {
		why = ended // an action that was broken off for that has failed, too
	}
	end(why)
	m.Log.Warn("the service stops here", "volume", m.Config.Volume, "why", why)
	if mutant.On(mutant.ServiceReleaseEarly) {
		m.release(ctx)
	}
	if err := m.stopAll(ctx, max(begun, may), env); err != nil {
		return err
	}
	m.state.Attachment, m.leftover = 0, 0
	if !errors.Is(why, errLost) {
		m.release(ctx)
	}
	if errors.Is(why, errElsewhere) || errors.Is(why, context.Canceled) {
		return nil
	}
	return why
}

// watch ends the run when the record tells why it should, or the volume is lost.
func (m *Manager) watch(run context.Context, end context.CancelCauseFunc, lost <-chan error, why func(*metapb.Volume) error) {
	for {
		r, _, changed := m.now()
		if err := why(r); err != nil {
			end(err)
		}
		select {
		case <-run.Done():
			return
		case err := <-lost:
			end(fmt.Errorf("%w: %w", errLost, err))
			return
		case <-changed:
		}
	}
}

// work starts the steps in order and looks after them, until something fails or the run
// ends. It tells how many were begun with.
func (m *Manager) work(run context.Context, env []string) (begun int, err error) {
	if err := statefile.SaveEnv(EnvFile(m.Dir, m.Config.Volume), env); err != nil {
		return 0, err
	}
	for i := range m.Config.Steps {
		s := &m.Config.Steps[i]
		m.tell(Starting, nil)
		begun++
		if err := m.do(run, s, Start, time.Duration(s.StartTimeout), env); err != nil {
			return begun, err
		}
		m.state.Started = append(m.state.Started, s.Name)
	}
	m.tell(Running, nil)
	m.Log.Info("the service runs here", "volume", m.Config.Volume, "attachment", m.state.Attachment)
	calm := time.After(calmTime)
	for {
		select {
		case <-run.Done():
			return begun, context.Cause(run)
		case <-calm:
			m.state.Failures = 0
			m.tell(Running, nil)
		case <-time.After(statusEvery):
			for i := range m.Config.Steps {
				if err := m.do(run, &m.Config.Steps[i], Status, statusTime, env); err != nil {
					return begun, err
				}
			}
		}
	}
}

// do does an action with a step, within a time.
func (m *Manager) do(ctx context.Context, s *Step, a Action, limit time.Duration, env []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %v", limit))
	defer cancel()
	return m.Runner.Run(ctx, s, a, env)
}

// stopAll stops the first so many steps, in reverse order. What does not stop is told to
// again and again, unless ctx has ended; the error says what is left running then.
func (m *Manager) stopAll(ctx context.Context, begun int, env []string) error {
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		m.tell(Stopping, nil)
		err := m.stopOnce(context.WithoutCancel(ctx), begun, env)
		if err == nil {
			m.state.Started = []string{}
			if err := os.Remove(EnvFile(m.Dir, m.Config.Volume)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		m.Log.Error("the service does not stop", "volume", m.Config.Volume, "err", err)
		m.tell(Stuck, err)
		if mutant.On(mutant.ServiceLeaveStuck) {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func (m *Manager) stopOnce(ctx context.Context, begun int, env []string) (err error) {
	for i := range begun {
		if !mutant.On(mutant.ServiceStopInOrder) {
			i = begun - 1 - i
		}
		s := &m.Config.Steps[i]
		err = errors.Join(err, m.do(ctx, s, Stop, time.Duration(s.StopTimeout), env))
	}
	return err
}

// release gives the volume up. Where that does not work, it is tried again when the
// record tells that this node has it still, and another node may take it over meanwhile.
func (m *Manager) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	if err := m.Cluster.Release(ctx); err != nil {
		m.Log.Warn("the volume was not given up", "volume", m.Config.Volume, "err", err)
	}
}

// leave gives a volume up that this node still has when it is told to stop.
func (m *Manager) leave(ctx context.Context) error {
	if r, _, _ := m.now(); m.holds(r) {
		m.release(ctx)
	}
	return nil
}

// pause waits after a failure, longer each time, until something changes that may help.
// After too many in a row another node shall try.
func (m *Manager) pause(ctx context.Context, why error) {
	if errors.Is(why, errLost) {
		return
	}
	if errors.Is(why, ErrHeld) {
		m.tell(Waiting, why)
		m.sleep(ctx, heldPause)
		return
	}
	m.state.Failures++
	m.Log.Error("the service has failed", "volume", m.Config.Volume, "failures", m.state.Failures, "err", why)
	m.tell(Idle, why)
	if m.state.Failures%failuresMost == 0 {
		ask, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		if err := m.Cluster.MoveAway(ask, fmt.Sprintf("it has failed on %s: %v", m.Node, why)); err != nil {
			m.Log.Warn("no other node runs the service", "volume", m.Config.Volume, "err", err)
		}
	}
	m.sleep(ctx, min(retryLeast<<min(m.state.Failures-1, 10), retryMost))
}

func (m *Manager) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
