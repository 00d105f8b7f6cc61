package metadata

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"slices"
	"syscall"

	"blkd/internal/env/crashfs"
	"blkd/metadata/metapb"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// coreSim is a quorum of Cores on disks that crash, on a network that loses, delays,
// reorders and repeats. Everything is drawn from one seed: without goroutines of its
// own, with raft's and Core's randomness in its hands, and with Pebble told not to
// compact. What is not in its hands is when Pebble's goroutines delete a file that
// nobody needs any more: openSim waits for them. So a seed replays, but for a
// power cut that falls between two such deletions.
type coreSim struct {
	rand    *mrand.Rand
	members []*simCore
	wire    []flight
	cut     map[[2]int]bool // one way
	founder *metapb.Command

	entries map[uint64]string // request and answer at each index, as first applied
	states  map[uint64]uint32 // checksum of the state at each index
	answers map[string]uint64 // index of each request that was answered
	highest uint64            // index that was applied anywhere
	open    []*metapb.Command // requests that may be repeated
	asked   uint64            // requests ever
	stats   simStats
}

// simStats counts what a run has seen, so that a test that sees nothing fails.
type simStats struct {
	Applied, Reads, Crashes, Kills, Full, Snapshots, Leaders, Confs int
}

// simCore is one member with its disk.
type simCore struct {
	id     uint64
	fs     *crashfs.FS
	log    *Log
	core   *Core             // nil: it does not run
	reads  map[uint64]uint64 // what each read has to see
	readID uint64
	term   uint64 // the last in which it led
	snap   uint64
	armed  bool // its power will be cut
}

// flight is a message under way.
type flight struct {
	from, to int
	bytes    []byte
}

// seedRandomness puts everything random into the hands of a seed, until the
// function that it returns is called: raft draws election timeouts from crypto/rand.
func seedRandomness(seed uint64) (restore func()) {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	old := rand.Reader
	rand.Reader = mrand.NewChaCha8(key)
	return func() { rand.Reader = old }
}

func newCoreSim(seed uint64, members int) *coreSim {
	s := &coreSim{rand: mrand.New(mrand.NewPCG(seed, 8)), cut: map[[2]int]bool{}, entries: map[uint64]string{}, states: map[uint64]uint32{}, answers: map[string]uint64{}}
	found := &metapb.FoundCluster{Cluster: 7}
	for i := range members {
		found.Founders = append(found.Founders, &metapb.Founder{Name: fmt.Sprint("n", i+1), Id: uint64(i + 1), Address: fmt.Sprintf("n%d:1", i+1), Disk: uint64(100 + i), Voter: i < 3})
		s.members = append(s.members, &simCore{id: uint64(i + 1), fs: crashfs.New()})
	}
	s.founder = &metapb.Command{Request: requestOf(0), Op: &metapb.Command_FoundCluster{FoundCluster: found}}
	return s
}

// quiet is for logs that nobody reads.
var quiet = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))

// start starts a member that does not run. A disk that was cut or is full may
// refuse; damage is an error.
func (s *coreSim) start(m *simCore) error {
	log, err := openSim(m.fs)
	if err == nil {
		var core *Core
		core, err = NewCore(CoreConfig{ID: m.id, Log: log, Founders: s.founder, Logger: quiet, SnapshotEntries: 12, KeepEntries: 4})
		if err != nil {
			log.Close() //nolint:errcheck // it has failed already
		} else {
			m.log, m.core, m.reads = log, core, map[uint64]uint64{}
		}
	}
	if err != nil && !s.excused(m, err) {
		return fmt.Errorf("member %d does not start: %w", m.id, err)
	}
	if err != nil {
		m.stop(s)
	}
	return nil
}

// openSim opens a log in small parts, all of them synced: then Pebble writes only
// when it is told to.
func openSim(fs *crashfs.FS) (*Log, error) {
	log, err := openLog(fs, "/log", logOptions{manual: true, partBytes: 200, partSync: pebble.Sync})
	if err == nil {
		log.pebble().TestOnlyWaitForCleaning()
	}
	return log, err
}

// excused tells whether an error is one that the test has asked for.
func (s *coreSim) excused(m *simCore, err error) bool {
	return errors.Is(err, crashfs.ErrPowerLoss) && m.armed || errors.Is(err, syscall.ENOSPC)
}

// stop ends a member; what its disk holds after that is drawn.
func (m *simCore) stop(s *coreSim) {
	if m.core == nil && !m.fs.Off() && !m.armed {
		m.fs.Kill() // it did not start
		return
	}
	power := m.fs.Off() || s.rand.IntN(2) == 0
	if power {
		m.fs.PowerOff()
	}
	old := m.fs
	if power {
		m.fs = old.Crash(s.rand.Uint64())
		s.stats.Crashes++
	}
	if m.log != nil {
		if !power {
			old.Kill()
			s.stats.Kills++
		}
		m.log.Close() //nolint:errcheck // its files are gone
	}
	if !power {
		m.fs.Kill()
	}
	m.log, m.core, m.armed = nil, nil, false
}

// round lets some time pass.
func (s *coreSim) round() error {
	for _, m := range s.members {
		if m.core != nil && s.rand.IntN(10) > 0 {
			m.core.Tick()
		}
	}
	s.deliver()
	for _, m := range s.members {
		if m.core != nil && s.rand.IntN(5) > 0 {
			if err := s.process(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// deliver hands over some of the messages that are under way, in any order.
func (s *coreSim) deliver() {
	s.rand.Shuffle(len(s.wire), func(i, j int) { s.wire[i], s.wire[j] = s.wire[j], s.wire[i] })
	var later []flight
	for _, f := range s.wire {
		switch n := s.rand.IntN(100); {
		case s.cut[[2]int{f.from, f.to}] || n < 2:
			continue
		case n < 20:
			later = append(later, f)
			continue
		case n < 23:
			later = append(later, f) // and again
		}
		if m := s.members[f.to]; m.core != nil {
			msg := new(raftpb.Message)
			if err := proto.Unmarshal(f.bytes, msg); err != nil {
				panic(err)
			}
			m.core.Step(msg) //nolint:errcheck // of no use to it
		}
	}
	s.wire = later
}

// process lets a member do what is to be done, and checks what it says.
func (s *coreSim) process(m *simCore) error {
	out, err := m.core.Process(func(list []*raftpb.Message) {
		for _, msg := range list {
			b, err := proto.Marshal(msg)
			if err != nil {
				panic(err)
			}
			s.wire = append(s.wire, flight{int(m.id - 1), int(msg.GetTo() - 1), b})
		}
	})
	if e := s.check(m, out); e != nil {
		return fmt.Errorf("member %d: %w", m.id, e)
	}
	if err == nil {
		return nil
	}
	if !s.excused(m, err) {
		return fmt.Errorf("member %d has failed: %w", m.id, err)
	}
	return s.aside(m, err)
}

// aside checks that a failure is final, and stops the member.
func (s *coreSim) aside(m *simCore, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		s.stats.Full++
	}
	sent := 0
	out, again := m.core.Process(func(list []*raftpb.Message) { sent += len(list) })
	if again == nil || len(out.Applied)+len(out.Reads)+sent > 0 || m.core.ReadIndex(1) == nil || m.core.Propose(s.founder) == nil {
		return fmt.Errorf("member %d goes on after its disk has failed (%w): %v, %d messages", m.id, err, out, sent)
	}
	m.stop(s)
	return nil
}

// check compares what a member applied with what others did.
func (s *coreSim) check(m *simCore, out Output) error {
	for _, a := range out.Applied {
		s.stats.Applied++
		entry := a.Request + string(encode(a.Result))
		if was, ok := s.entries[a.Index]; ok && was != entry {
			return fmt.Errorf("at index %d it applied %q, another member %q", a.Index, entry, was)
		}
		s.entries[a.Index] = entry
		if first, ok := s.answers[a.Request]; ok && a.Result.Index != first {
			return fmt.Errorf("request %s was done at index %d and again at %d", a.Request, first, a.Result.Index)
		}
		s.answers[a.Request] = a.Result.Index
	}
	at := m.core.applied.index
	s.highest = max(s.highest, at)
	sum := crc32.ChecksumIEEE(m.core.state.Encode())
	if was, ok := s.states[at]; ok && was != sum {
		return fmt.Errorf("at index %d its state is another one", at)
	}
	s.states[at] = sum
	for _, id := range out.Reads {
		s.stats.Reads++ // the network may repeat an answer
		if floor, ok := m.reads[id]; !ok || at < floor {
			return fmt.Errorf("read %d sees index %d; index %d was answered before it began (known: %v)", id, at, floor, ok)
		}
	}
	s.stats.Confs += len(out.Confs)
	if snap := m.log.snap.GetIndex(); snap > m.snap {
		s.stats.Snapshots++
		m.snap = snap
	}
	if st := m.core.raw.BasicStatus(); st.Lead == m.id && st.GetTerm() != m.term {
		s.stats.Leaders++
		m.term = st.GetTerm()
	}
	return nil
}

// trouble is one thing that a client asks for, or that breaks.
func (s *coreSim) trouble() error {
	i := s.rand.IntN(len(s.members))
	m := s.members[i]
	switch n := s.rand.IntN(100); {
	case m.core == nil:
		m.fs.SetBudget(-1)
		if n < 30 {
			m.arm(s)
		}
		return s.start(m)
	case n < 50:
		s.propose(m)
	case n < 65:
		m.readID++
		m.reads[m.readID] = s.highest
		m.core.ReadIndex(m.readID) //nolint:errcheck // it may fail by its disk: Process says so
	case n < 72:
		m.arm(s)
	case n < 75:
		m.stop(s)
	case n < 78:
		m.fs.SetBudget(m.fs.Used() + s.rand.Int64N(3)*4096)
	case n < 84:
		s.cut = map[[2]int]bool{}
		for range s.rand.IntN(5) {
			s.cut[[2]int{s.rand.IntN(len(s.members)), s.rand.IntN(len(s.members))}] = true
		}
	case n < 87:
		m.core.Transfer(uint64(1 + s.rand.IntN(len(s.members)))) //nolint:errcheck // as above
	case n < 94:
		m.core.ProposeConf(s.change(m)) //nolint:errcheck // most make no sense
	case n < 97:
		return s.flush(m)
	default:
		for range 5 + s.rand.IntN(20) { // a pause of all others
			m.core.Tick()
		}
	}
	return nil
}

// arm cuts a member's power at one of its next writes or syncs.
func (m *simCore) arm(s *coreSim) {
	m.armed = true
	m.fs.FailAfter(1 + s.rand.Uint64N(12))
}

// flush lets Pebble write a table and forget its log.
func (s *coreSim) flush(m *simCore) error {
	if err := m.log.pebble().Flush(); err != nil && m.log.Err() == nil && !m.fs.Off() {
		return err
	}
	if m.log.Err() == nil && !m.fs.Off() {
		m.log.pebble().TestOnlyWaitForCleaning()
	}
	return nil
}

// propose asks a member for something new, or for what was asked before.
func (s *coreSim) propose(m *simCore) {
	var c *metapb.Command
	if len(s.open) > 0 && s.rand.IntN(3) == 0 {
		c = s.open[s.rand.IntN(len(s.open))]
	} else {
		s.asked++
		c = &metapb.Command{Request: requestOf(s.asked), Reason: string(bytes.Repeat([]byte{'x'}, s.rand.IntN(pick(s.rand, 10, 900))))}
		name := fmt.Sprint("x", s.rand.IntN(8))
		if s.rand.IntN(2) == 0 {
			c.Op = &metapb.Command_AddNode{AddNode: &metapb.AddNode{Name: name, Address: fmt.Sprintf("x:%d", s.asked)}}
		} else {
			c.Op = &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Name: name}}
		}
		s.open = append(s.open, c)
	}
	m.core.Propose(c) //nolint:errcheck // only a leader takes it
}

// change is a change of the members that keeps 3 or 5 voters.
func (s *coreSim) change(m *simCore) *raftpb.ConfChangeV2 {
	cc := &raftpb.ConfChangeV2{Context: requestOf(s.rand.Uint64N(1000))}
	add := func(kind raftpb.ConfChangeType, id uint64) {
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: &id})
	}
	voters, learners := m.core.conf.GetVoters(), m.core.conf.GetLearners()
	switch {
	case len(s.members) == 3: // a change that changes nothing
		add(raftpb.ConfChangeAddNode, voters[s.rand.IntN(len(voters))])
	case len(learners) == 0:
		for _, i := range s.rand.Perm(len(voters))[:2] {
			add(raftpb.ConfChangeAddLearnerNode, voters[i])
		}
	case s.rand.IntN(3) == 0:
		for _, id := range learners {
			add(raftpb.ConfChangeAddNode, id)
		}
	default:
		add(raftpb.ConfChangeAddNode, learners[s.rand.IntN(len(learners))])
		add(raftpb.ConfChangeAddLearnerNode, voters[s.rand.IntN(len(voters))])
	}
	return cc
}

// heal lets everything work again, until a last command is applied by all.
func (s *coreSim) heal() error {
	clear(s.cut)
	for _, m := range s.members {
		m.fs.SetBudget(-1)
		m.fs.FailAfter(0)
		m.armed = m.fs.Off()
		if m.core != nil && (m.fs.Off() || m.log.Err() != nil) {
			m.stop(s)
		}
		if m.core == nil {
			if m.fs.Off() {
				m.stop(s)
			}
			if err := s.start(m); err != nil {
				return err
			}
		}
	}
	last := &metapb.Command{Request: requestOf(999999), Op: &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Name: "last"}}}
	for n := range 600 {
		if n%20 == 19 {
			for _, m := range s.members {
				m.core.Propose(last) //nolint:errcheck // only a leader takes it
			}
		}
		if err := s.round(); err != nil {
			return err
		}
		if index, ok := s.answers[string(last.Request)]; ok && s.all(func(m *simCore) bool { return m.core.applied.index >= index }) {
			return s.agree()
		}
	}
	return errors.New("all members work, and no command is applied")
}

func (s *coreSim) all(f func(*simCore) bool) bool {
	return !slices.ContainsFunc(s.members, func(m *simCore) bool { return !f(m) })
}

// agree checks that nothing that was answered is missing anywhere.
func (s *coreSim) agree() error {
	for _, m := range s.members {
		for request, index := range s.answers {
			if r := m.core.state.applied.answer(requestID([]byte(request))); r == nil || r.Index != index {
				return fmt.Errorf("member %d has lost request %s, answered at index %d: %v", m.id, request, index, r)
			}
		}
	}
	return nil
}

func (s *coreSim) close() {
	for _, m := range s.members {
		if m.log != nil {
			m.log.Close() //nolint:errcheck // the test is over
		}
	}
}

// coreSeed runs one seed and adds to stats what it has seen.
func coreSeed(seed uint64, rounds int, stats *simStats) error {
	defer seedRandomness(seed)()
	s := newCoreSim(seed, 3+2*int(seed%2))
	defer s.close()
	err := s.run(rounds)
	s.stats.addTo(stats)
	if err != nil {
		return fmt.Errorf("seed %d: %w", seed, err)
	}
	return nil
}

func (s *coreSim) run(rounds int) error {
	for range rounds {
		if err := s.round(); err != nil {
			return err
		}
		if s.rand.IntN(2) == 0 {
			if err := s.trouble(); err != nil {
				return err
			}
		}
	}
	return s.heal()
}

func (n *simStats) addTo(sum *simStats) {
	sum.Applied += n.Applied
	sum.Reads += n.Reads
	sum.Crashes += n.Crashes
	sum.Kills += n.Kills
	sum.Full += n.Full
	sum.Snapshots += n.Snapshots
	sum.Leaders += n.Leaders
	sum.Confs += n.Confs
}
