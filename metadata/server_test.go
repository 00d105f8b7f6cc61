package metadata

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"blkd/internal/env/crashfs"
	"blkd/internal/env/manualclock"
	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
)

// lab is a quorum of Servers whose time goes on only in wait, and whose network
// is a call.
type lab struct {
	t     *testing.T
	clock *manualclock.Clock

	mu      sync.Mutex
	servers map[uint64]*Server
	logs    map[uint64]*Log
	disks   map[uint64]*crashfs.FS
	cut     map[uint64]bool // hears nobody and is not heard
	loss    float64
	rand    *rand.Rand
}

func newLab(t *testing.T, members int) *lab {
	l := &lab{t: t, clock: manualclock.New(), servers: map[uint64]*Server{}, logs: map[uint64]*Log{}, disks: map[uint64]*crashfs.FS{}, cut: map[uint64]bool{}, rand: rand.New(rand.NewPCG(1, 9))}
	for i := range members {
		l.disks[uint64(i+1)] = crashfs.New()
	}
	for id := range l.disks {
		l.start(id)
	}
	t.Cleanup(func() {
		for id := range l.disks {
			l.stop(id)
		}
	})
	return l
}

// founders is the first command of a lab with so many members, of which 3 vote.
func founders(members int) *metapb.Command {
	c := &metapb.FoundCluster{Cluster: 7}
	for i := range members {
		c.Founders = append(c.Founders, &metapb.Founder{Name: fmt.Sprint("n", i+1), Id: uint64(i + 1), Address: fmt.Sprintf("n%d:1", i+1), Disk: uint64(100 + i), Voter: i < 3})
	}
	return &metapb.Command{Request: requestOf(0), Op: &metapb.Command_FoundCluster{FoundCluster: c}}
}

func (l *lab) start(id uint64) *Server {
	l.t.Helper()
	log, err := OpenLog(l.disks[id], "/log")
	if err != nil {
		l.t.Fatal(err)
	}
	s, err := NewServer(ServerConfig{
		CoreConfig: CoreConfig{ID: id, Log: log, Founders: founders(len(l.disks)), Logger: quiet, SnapshotEntries: 50, KeepEntries: 10},
		Clock:      l.clock, Send: func(list []*raftpb.Message) { l.send(id, list) },
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.servers[id], l.logs[id] = s, log
	return s
}

// stop ends a member as a crash of its process would.
func (l *lab) stop(id uint64) {
	l.mu.Lock()
	s, log := l.servers[id], l.logs[id]
	delete(l.servers, id)
	l.mu.Unlock()
	if s != nil {
		s.Stop()
		log.Close() //nolint:errcheck // it may have failed
		l.disks[id].Kill()
	}
}

func (l *lab) send(from uint64, list []*raftpb.Message) {
	for _, m := range list {
		l.mu.Lock()
		to := l.servers[m.GetTo()]
		lost := l.cut[from] || l.cut[m.GetTo()] || l.rand.Float64() < l.loss
		l.mu.Unlock()
		if to != nil && !lost {
			to.Step(m)
		}
	}
}

func (l *lab) isolate(id uint64, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[id] = on
}

func (l *lab) server(id uint64) *Server {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.servers[id]
}

// wait lets time go on until f is true.
func (l *lab) wait(what string, f func() bool) {
	l.t.Helper()
	for range 1000000 { // 10,000 s
		if f() {
			return
		}
		l.clock.Advance(10 * time.Millisecond)
		for id := range l.disks {
			if s := l.server(id); s != nil { // time must not run away from it
				s.call(l.t.Context(), func(done chan error) { done <- nil }) //nolint:errcheck // it may have stopped
			}
		}
	}
	l.t.Fatalf("no %s", what)
}

// leader waits for a leader whom most follow, but for one of these.
func (l *lab) leader(but ...uint64) (id uint64) {
	l.t.Helper()
	l.wait("leader", func() bool {
		votes := map[uint64]int{}
		for other := range l.disks {
			if s := l.server(other); s != nil && !slices.Contains(but, other) {
				votes[s.Status().Leader]++
			}
		}
		for candidate, n := range votes {
			if candidate != 0 && 2*n > len(l.disks) && !slices.Contains(but, candidate) {
				id = candidate
			}
		}
		return id != 0
	})
	return id
}

// during lets time go on while f runs, and returns its error.
func (l *lab) during(f func() error) error {
	l.t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	var err error
	l.wait("end of the call", func() bool {
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	return err
}

func addNode(n uint64) *metapb.Command {
	name := fmt.Sprint("x", n)
	return &metapb.Command{Request: requestOf(n), Op: &metapb.Command_AddNode{AddNode: &metapb.AddNode{Name: name, Address: name + ":1"}}}
}

func TestServerProposes(t *testing.T) {
	l := newLab(t, 3)
	ctx := t.Context()
	lead := l.leader()
	for n := range uint64(200) { // beyond a snapshot or two
		var r *metapb.Result
		err := l.during(func() (err error) { r, err = l.server(lead).Propose(ctx, addNode(n+1)); return err })
		if err != nil || r.Code != metapb.Code_CODE_OK {
			t.Fatalf("%v, %v", r, err)
		}
	}
	follower := lead%3 + 1
	_, err := l.server(follower).Propose(ctx, addNode(500))
	if elsewhere := new(NotLeaderError); !errors.As(err, &elsewhere) || elsewhere.Leader != lead {
		t.Errorf("a follower answers %v", err)
	}
	l.wait("followers that are level", func() bool {
		for id := range l.disks {
			n := 0
			l.server(id).View(func(s *State) { n = len(s.Nodes()) })
			if n != 203 {
				return false
			}
		}
		return true
	})
	if st := l.server(lead).Status(); len(st.Followers) != 2 || st.Snapshot < 100 || st.Applied < 200 || st.Commit < st.Applied || len(st.Voters) != 3 {
		t.Errorf("status %+v", st)
	}
	// Many at once, some of them twice.
	var group sync.WaitGroup
	for n := range uint64(100) {
		group.Go(func() {
			if r, err := l.server(lead).Propose(ctx, addNode(1000+n/2)); err != nil || r.Code != metapb.Code_CODE_OK {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
	mustDo(t, l.during(func() error { group.Wait(); return nil }))
}

// TestServerLosesItsLeader asks again, with the same request, until somebody
// answers: each is done once.
func TestServerLosesItsLeader(t *testing.T) {
	l := newLab(t, 3)
	l.loss = 0.05
	next := uint64(0)
	propose := func() error {
		next++
		c := addNode(next)
		for {
			for id := range uint64(3) {
				s := l.server(id + 1)
				if s == nil {
					continue
				}
				ctx, cancel := context.WithCancel(t.Context())
				timer := l.clock.AfterFunc(time.Second, cancel)
				r, err := s.Propose(ctx, c)
				timer.Stop()
				cancel()
				if err == nil && r.Code != metapb.Code_CODE_OK {
					return fmt.Errorf("request %d: %v", next, r)
				}
				if err == nil {
					return nil
				}
			}
			time.Sleep(time.Millisecond)
		}
	}
	for round := range 8 {
		lead := l.leader()
		mustDo(t, l.during(propose))
		victim := l.server(lead)
		under := make(chan error, 1)
		go func() { _, err := victim.Propose(t.Context(), addNode(5000+uint64(round))); under <- err }()
		if round%2 == 0 {
			l.stop(lead)
			if err := <-under; err != nil && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrDropped) {
				t.Errorf("a stopped member answers %v", err)
			}
		} else {
			l.isolate(lead, true)
		}
		for range 3 {
			mustDo(t, l.during(propose))
		}
		if round%2 == 0 {
			l.start(lead)
		} else {
			l.wait("end of the old reign", func() bool { return victim.Status().Leader != lead })
			mustDo(t, l.during(func() error { <-under; return nil }))
			l.isolate(lead, false)
		}
	}
	lead := l.leader()
	l.loss = 0
	mustDo(t, l.during(func() error { return l.server(lead).ReadIndex(t.Context()) }))
	l.server(lead).View(func(s *State) {
		for n := range next {
			if s.Node(fmt.Sprint("x", n+1)) == nil {
				t.Errorf("node x%d was answered and is not there", n+1)
			}
		}
	})
}

// TestServerReads reads at followers what was answered before.
func TestServerReads(t *testing.T) {
	l := newLab(t, 3)
	l.loss = 0.1
	lead := l.leader()
	for n := range uint64(40) {
		mustDo(t, l.during(func() error {
			for {
				r, err := l.server(lead).Propose(t.Context(), addNode(n+1))
				if err == nil && r.Code == metapb.Code_CODE_OK {
					return nil
				}
				if !errors.Is(err, ErrDropped) {
					return err
				}
			}
		}))
		id := n%3 + 1
		mustDo(t, l.during(func() error { return l.server(id).ReadIndex(t.Context()) }))
		l.server(id).View(func(s *State) {
			if s.Node(fmt.Sprint("x", n+1)) == nil {
				t.Errorf("member %d does not see node x%d", id, n+1)
			}
		})
	}
	// Cut off, nobody reads, the old leader least of all.
	l.isolate(lead, true)
	ctx, cancel := context.WithCancelCause(t.Context())
	l.clock.AfterFunc(5*time.Second, func() { cancel(errStopTest) })
	if err := l.during(func() error { return l.server(lead).ReadIndex(ctx) }); !errors.Is(err, errStopTest) {
		t.Errorf("a leader that is cut off reads: %v", err)
	}
}

var errStopTest = errors.New("the test gives up")

// TestServerTransfers hands leadership from one to the next, and not to one that
// cannot take it.
func TestServerTransfers(t *testing.T) {
	l := newLab(t, 4)
	lead := l.leader()
	for range 6 {
		to := lead%3 + 1
		mustDo(t, l.during(func() error { return l.server(lead).Transfer(t.Context(), to) }))
		if got := l.server(lead).Status().Leader; got != to {
			t.Errorf("%d leads, not %d", got, to)
		}
		if err := l.during(func() error { return l.server(lead).Transfer(t.Context(), 4) }); err == nil {
			t.Error("a follower handed leadership over")
		}
		lead = to
	}
	if err := l.during(func() error { return l.server(lead).Transfer(t.Context(), 4) }); err == nil {
		t.Error("a learner leads")
	}
	other := lead%3 + 1
	l.isolate(other, true)
	if err := l.during(func() error { return l.server(lead).Transfer(t.Context(), other) }); err == nil {
		t.Error("a member that is cut off leads")
	}
	r, err := (*metapb.Result)(nil), error(nil)
	mustDo(t, l.during(func() error { r, err = l.server(lead).Propose(t.Context(), addNode(1)); return err }))
	if r.Code != metapb.Code_CODE_OK {
		t.Error(r)
	}
}

// TestServerChangesMembers swaps a voter for a learner and back.
func TestServerChangesMembers(t *testing.T) {
	l := newLab(t, 4)
	lead := l.leader()
	single := func(kind raftpb.ConfChangeType, id uint64) *raftpb.ConfChangeSingle {
		return &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: &id}
	}
	swap := func(in, out uint64) *raftpb.ConfChangeV2 {
		return &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointImplicit.Enum(), Changes: []*raftpb.ConfChangeSingle{
			single(raftpb.ConfChangeAddNode, in), single(raftpb.ConfChangeAddLearnerNode, out)}}
	}
	other := lead%3 + 1
	for _, c := range []struct{ in, out uint64 }{{4, other}, {other, 4}} {
		mustDo(t, l.during(func() error { return l.server(lead).ProposeConf(t.Context(), swap(c.in, c.out)) }))
		st := l.server(lead).Status()
		if !slices.Contains(st.Voters, c.in) || slices.Contains(st.Voters, c.out) || !slices.Contains(st.Learners, c.out) || len(st.Outgoing) != 0 {
			t.Fatalf("after %d for %d: %+v", c.in, c.out, st)
		}
		var voters []uint64
		l.server(lead).View(func(s *State) { voters = s.Info().Voters })
		if !slices.Equal(voters, sortedIDs(st.Voters)) {
			t.Errorf("the state records voters %d, raft has %d", voters, st.Voters)
		}
	}
	for _, cc := range []*raftpb.ConfChangeV2{
		{}, {Changes: []*raftpb.ConfChangeSingle{single(raftpb.ConfChangeRemoveNode, 1), single(raftpb.ConfChangeRemoveNode, 2), single(raftpb.ConfChangeRemoveNode, 3)}},
	} {
		if err := l.during(func() error { return l.server(lead).ProposeConf(t.Context(), cc) }); err == nil {
			t.Errorf("%v was made", cc)
		}
	}
	err := l.during(func() error { return l.server(other).ProposeConf(t.Context(), swap(4, lead)) })
	if elsewhere := new(NotLeaderError); !errors.As(err, &elsewhere) {
		t.Errorf("a follower answers %v", err)
	}
}

// TestServerStepsAside fills a member's disk: it is gone from the quorum, the others
// go on, and after a restart with space it is back.
func TestServerStepsAside(t *testing.T) {
	l := newLab(t, 3)
	lead := l.leader()
	full := l.server(lead)
	l.disks[lead].SetBudget(l.disks[lead].Used())
	changed := full.Changed()
	for n := uint64(1); ; n++ {
		c := addNode(n)
		c.Reason = string(make([]byte, 900))
		if err := l.during(func() error { _, err := full.Propose(t.Context(), c); return err }); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a full disk: %v", err)
			}
			break
		}
	}
	if err := <-full.Failed(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("failed with %v", err)
	}
	<-changed
	for _, err := range []error{full.ReadIndex(t.Context()), full.Transfer(t.Context(), 1), full.ProposeConf(t.Context(), &raftpb.ConfChangeV2{})} {
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a member that has stepped aside answers %v", err)
		}
	}
	if st := full.Status(); st.Leader != 0 {
		t.Errorf("it still knows leader %d", st.Leader)
	}
	next := l.leader(lead)
	mustDo(t, l.during(func() error { _, err := l.server(next).Propose(t.Context(), addNode(9999)); return err }))
	l.stop(lead)
	l.disks[lead].SetBudget(-1)
	back := l.start(lead)
	mustDo(t, l.during(func() error { return back.ReadIndex(t.Context()) }))
	back.View(func(s *State) {
		if s.Node("x9999") == nil {
			t.Error("it has come back without what was done meanwhile")
		}
	})
}

// TestServerStops ends every call that waits.
func TestServerStops(t *testing.T) {
	l := newLab(t, 3)
	lead := l.leader()
	for id := range l.disks {
		if id != lead {
			l.stop(id)
		}
	}
	s := l.server(lead)
	results := make(chan error, 3)
	go func() { _, err := s.Propose(t.Context(), addNode(1)); results <- err }()
	go func() { results <- s.ReadIndex(t.Context()) }()
	go func() { results <- s.Transfer(t.Context(), lead%3+1) }()
	time.Sleep(time.Millisecond)
	l.stop(lead)
	for range 3 {
		if err := <-results; err == nil {
			t.Error("a call of a stopped member has succeeded")
		}
	}
	if _, err := s.Propose(t.Context(), addNode(2)); !errors.Is(err, ErrStopped) {
		t.Errorf("after the end: %v", err)
	}
	s.Stop()
}
