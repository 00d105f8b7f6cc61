package metadata

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"blkd/metadata/metapb"
)

var stewardSeeds = flag.Int("steward.seeds", 20, "how many seeded clusters TestStewardSim lets fail and recover")

// TestStewardSim lets nodes of random clusters fail, return, restart, lag, flap,
// be drained, replaced, removed and added. Everything that the steward asks for is
// checked (see stewardWorld); and when calm returns, the quorum has to be whole,
// every volume that can be served served, and nothing asked for any more.
func TestStewardSim(t *testing.T) {
	for seed := range uint64(*stewardSeeds) {
		if err := stewardSeed(seed); err != nil {
			t.Fatal(err)
		}
	}
}

func stewardSeed(seed uint64) error {
	sim := &stewardSim{rand: rand.New(rand.NewPCG(seed, 7)), w: newStewardWorld()}
	if err := sim.run(); err != nil {
		return fmt.Errorf("seed %d: %w", seed, err)
	}
	return nil
}

type stewardSim struct {
	rand  *rand.Rand
	w     *stewardWorld
	added int
}

func (s *stewardSim) run() error {
	var nodes []string
	for i := range 3 + s.rand.IntN(4) {
		nodes = append(nodes, fmt.Sprintf("n%d/zone=%c", i+1, 'a'+s.rand.IntN(3)))
	}
	if err := s.w.found(nodes); err != nil {
		return err
	}
	for i := range 4 {
		line := fmt.Sprintf("create_volume name=v%d size_bytes=1G layout=mirror:%d", i, 1+i%3)
		if err := s.w.line(line); err != nil {
			return err
		}
	}
	for i := range 2 {
		if err := s.w.line(fmt.Sprintf("set_service volume=v%d nodes=n%d,n%d wanted=n%d @", i, 2-i, 3, 3)); err != nil {
			return err
		}
	}
	for range 3 {
		for range 5 + s.rand.IntN(20) {
			if err := s.trouble(); err != nil {
				return err
			}
			if err := s.w.run(time.Duration(s.rand.Int64N(int64(pick(s.rand, time.Second, 10*time.Second, 100*time.Second))))); err != nil {
				return err
			}
		}
		if err := s.calm(); err != nil {
			return err
		}
	}
	return nil
}

// trouble is one thing that happens.
func (s *stewardSim) trouble() error {
	w := s.w
	nodes := w.s.Nodes()
	n := nodes[s.rand.IntN(len(nodes))]
	if n.Id == w.raft.ID && s.rand.IntN(3) > 0 {
		return nil
	}
	switch s.rand.IntN(14) {
	case 0, 1, 2, 3:
		if n.Id != w.raft.ID {
			w.health(n.Name, pick(s.rand, metapb.Health_HEALTH_DOWN, metapb.Health_HEALTH_PARTITIONED, metapb.Health_HEALTH_SLOW, metapb.Health_HEALTH_UP), "trouble")
		}
	case 4, 5:
		if n.Id != w.raft.ID {
			restart := pick(s.rand, w.restart, w.register)
			return restart(n.Name, pick(s.rand, "boot=b", "boot=c", "boot=c clean=true"))
		}
	case 6:
		w.hold(n.Name, time.Duration(s.rand.Int64N(int64(2*time.Minute))))
	case 7:
		w.lag[n.Id] = s.rand.Uint64N(3000)
	case 8:
		w.stuck, w.lossy = s.rand.IntN(2) == 0, s.rand.IntN(2) == 0
	case 9:
		return w.line(fmt.Sprintf("drain_node name=%s undo=%v", n.Name, s.rand.IntN(2) == 0))
	case 10:
		s.try("replace_node name=" + n.Name)
	case 11:
		s.try("remove_node name=" + n.Name + " force=true")
	case 12:
		if s.added++; len(nodes) < 8 {
			return s.add(fmt.Sprint("m", s.added))
		}
	default:
		s.otherLeader()
	}
	return nil
}

// try asks for what may be refused.
func (s *stewardSim) try(line string) {
	if c, err := parseCommand(s.w.s, line); err == nil {
		s.w.do(c) //nolint:errcheck // the state knows what is safe
	}
}

func (s *stewardSim) add(name string) error {
	if err := s.w.line("add_node name=" + name + " address=" + name + ":1"); err != nil {
		return err
	}
	return s.w.restart(name, fmt.Sprintf("witness=%v", s.rand.IntN(4) == 0))
}

// otherLeader moves leadership to a voter that works.
func (s *stewardSim) otherLeader() {
	id := s.w.raft.Voters[s.rand.IntN(len(s.w.raft.Voters))]
	if n := s.w.s.NodeByID(id); n != nil && s.w.works(id) && s.w.bears(s.w.raft.Voters) >= 0 {
		s.w.health(n.Name, metapb.Health_HEALTH_UP, "leads")
		s.w.reign(id)
	}
}

// calm lets everything work again for long and checks what has become of it.
func (s *stewardSim) calm() error {
	w := s.w
	w.stuck, w.lossy = false, false
	w.tick = time.Second
	defer func() { w.tick = 100 * time.Millisecond }()
	clear(w.lag)
	for _, n := range w.s.Nodes() {
		if err := w.line("drain_node undo=true name=" + n.Name); err != nil {
			return err
		}
		if n.Incarnation == 0 {
			if err := w.restart(n.Name, fmt.Sprintf("witness=%v", n.Witness)); err != nil {
				return err
			}
		}
		w.hold(n.Name, 0)
		w.health(n.Name, metapb.Health_HEALTH_UP, "answers")
	}
	if err := w.run(6 * time.Minute); err != nil {
		return err
	}
	before, record := w.changes, w.s.LastEvent()
	if err := w.run(5 * time.Minute); err != nil {
		return err
	}
	if w.changes != before || w.s.LastEvent() != record {
		return fmt.Errorf("all is calm, and %d changes of members and %d events follow", w.changes-before, w.s.LastEvent()-record)
	}
	return s.whole()
}

// whole checks what holds when all nodes have worked for long.
func (s *stewardSim) whole() error {
	w := s.w
	nodes := w.s.Nodes()
	if len(w.raft.Voters) != quorumSize(len(nodes)) || len(w.raft.Voters)+len(w.raft.Learners) != len(nodes) {
		return fmt.Errorf("voters %s, learners %s of %d nodes", w.names(w.raft.Voters), w.names(w.raft.Learners), len(nodes))
	}
	for _, n := range nodes {
		if !slices.Contains(w.raft.Voters, n.Id) && !slices.Contains(w.raft.Learners, n.Id) {
			return fmt.Errorf("node %s is no member of the quorum", n.Name)
		}
		if v := w.verdicts[n.Name]; n.Health != v.Health || n.HeldUntil != 0 {
			return fmt.Errorf("node %s is recorded as %s, held until %d; it is %v", n.Name, metapb.HealthWord(n.Health), n.HeldUntil, v)
		}
	}
	for _, v := range w.s.Volumes() {
		n := w.s.Node(v.Primary)
		if t := tallyOf(v.Members); n.GetIncarnation() != v.PrimaryIncarnation && !recoverable(v, t) {
			return fmt.Errorf("volume %s has nobody who serves it: primary %s, members %s", v.Name, v.Primary, membersText(v.Members))
		}
		if wanted := v.Service.GetWanted(); w.s.Node(wanted) == nil && ServiceNode(w.s, v, wanted) != "" {
			return fmt.Errorf("the service of volume %s shall run on %q, of %v", v.Name, wanted, v.Service)
		}
	}
	return nil
}
