package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"blkd/metadata/metapb"
)

func add(name string) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_AddNode{AddNode: &metapb.AddNode{Name: name, Address: name + ":7400"}}}
}

func remove(name string) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Name: name}}}
}

// Nodes that are added learn first; with the fifth there are five voters. One
// that was not added waits and says what to do.
func TestAddNodes(t *testing.T) {
	running(t, func(l *lab) {
		l.start("n4")
		n4 := l.node("n4")
		l.wait("told to add it", func() bool {
			return n4.Status().Phase == Joining && strings.Contains(n4.Status().Advice, "blkctl node add n4 --address n4:7400")
		})
		l.node("n1").do(add("n4"))
		l.settle("n1", "n2", "n3", "n4")
		n4.do(create("v"))
		if st := n4.Status(); !slices.Equal(st.Voters, three) || st.ID != 4 {
			t.Errorf("with a fourth node: %+v", st)
		}
		n4.do(add("n5"))
		l.start("n5")
		l.settle("n1", "n2", "n3", "n4", "n5")
		l.wait("five voters", func() bool { return len(l.node("n1").Status().Voters) == 5 })
		if !l.node("n5").hasVolume("v") {
			t.Error("the fifth node does not know what was done before it came")
		}
		l.node("n1").kill()
		l.node("n2").kill()
		l.node("n5").do(create("w"))
	}, three...)
}

// A voter that stays away gives way to a node that only learned, and learns when
// it comes back.
func TestVoterGivesWay(t *testing.T) {
	running(t, func(l *lab) {
		gone := l.follower()
		gone.kill()
		name := gone.cfg.Name
		l.waitFor(3*time.Minute, "n4 in its place", func() bool {
			voters := l.leader().Status().Voters
			return slices.Contains(voters, "n4") && !slices.Contains(voters, name) && len(voters) == 3
		})
		l.start(name)
		l.settle("n1", "n2", "n3", "n4")
		if voters := gone.Status().Voters; slices.Contains(voters, name) || len(voters) != 3 {
			t.Errorf("voters: %v", voters)
		}
		gone.do(create("v"))
	}, "n1", "n2", "n3", "n4")
}

// A node that is removed while it runs is told so, takes no part any more, and
// cannot come back with its old disk, but with an empty one if it is added again.
func TestRemoveNode(t *testing.T) {
	running(t, func(l *lab) {
		n4 := l.node("n4")
		l.node("n1").do(remove("n4"))
		removed := func() bool {
			st := n4.Status()
			return st.Phase == Refused && strings.Contains(st.Waiting, "node n4 with Raft id 4 was removed")
		}
		l.wait("refused", removed)
		var refused *RefusedError
		if _, err := n4.ask(patience, create("v")); !errors.As(err, &refused) {
			t.Errorf("a node that was removed answered %v", err)
		}
		n4.stop()
		l.start("n4")
		l.wait("refused again", removed)
		n4.stop()
		l.node("n1").do(add("n4"))
		l.start("n4")
		l.wait("refused still", func() bool { return n4.Status().Phase == Refused })
		n4.stop()
		n4.wipe()
		l.start("n4")
		l.settle("n1", "n2", "n3", "n4")
		if st := n4.Status(); st.ID != 5 {
			t.Errorf("it has Raft id %d", st.ID)
		}
	}, "n1", "n2", "n3", "n4")
}

// A voter that is replaced while it runs does not vote with its old disk.
func TestReplaceRunning(t *testing.T) {
	running(t, func(l *lab) {
		old := l.follower()
		name := old.cfg.Name
		asker := l.leader()
		asker.do(replace(name))
		l.wait("refused", func() bool { return old.Status().Phase == Refused })
		asker.do(create("v"))
		old.stop()
		old.wipe()
		l.start(name)
		l.settle(three...)
		l.wait("three voters", func() bool { return len(old.Status().Voters) == 3 })
	}, three...)
}

// The leader itself can be replaced: another one leads.
func TestReplaceLeader(t *testing.T) {
	running(t, func(l *lab) {
		old, asker := l.leader(), l.follower()
		asker.do(replace(old.cfg.Name))
		l.wait("refused", func() bool { return old.Status().Phase == Refused })
		asker.do(create("v"))
	}, "n1", "n2", "n3", "n4")
}

func TestTransfer(t *testing.T) {
	running(t, func(l *lab) {
		ctx := context.Background()
		for _, name := range []string{"n1", "n2", "n3", "n3"} {
			for _, asker := range []string{"n4", "n1"} {
				if err := l.node(asker).Transfer(ctx, name); err != nil {
					t.Fatalf("%s asks that %s lead: %v", asker, name, err)
				}
				if leader := l.leader().cfg.Name; leader != name {
					t.Errorf("%s leads, not %s", leader, name)
				}
			}
		}
		if err := l.node("n1").Transfer(ctx, ""); err != nil {
			t.Fatal(err)
		}
		if leader := l.leader().cfg.Name; leader == "n3" {
			t.Errorf("%s leads still", leader)
		}
		for _, name := range []string{"n4", "n9"} {
			if err := l.node("n1").Transfer(ctx, name); err == nil || !strings.Contains(err.Error(), "node "+name+" is no voter") {
				t.Errorf("to %s: %v", name, err)
			}
		}
		leader, to := l.leader(), l.follower()
		l.net.part([]string{to.cfg.Name}, l.others(to.cfg.Name))
		time.Sleep(time.Second)
		if err := leader.Transfer(ctx, to.cfg.Name); err == nil {
			t.Error("a voter that is cut off leads")
		}
		leader.do(create("v"))
	}, "n1", "n2", "n3", "n4")
}

// A node that comes and goes is held back, and the quorum knows it.
func TestFlapping(t *testing.T) {
	running(t, func(l *lab) {
		n := l.follower()
		name := n.cfg.Name
		for range 8 {
			l.net.part([]string{name}, l.others(name))
			time.Sleep(2 * time.Second)
			l.net.heal()
			time.Sleep(2 * time.Second)
		}
		l.wait("held back", func() bool {
			r := l.leader().record(name)
			return r.HeldUntil > labClock{}.Wall().UnixNano() && strings.Contains(r.HealthText, "held back")
		})
		l.waitFor(10*time.Minute, "free again", func() bool {
			r := l.leader().record(name)
			return r.HeldUntil < labClock{}.Wall().UnixNano() && r.Health == metapb.Health_HEALTH_UP
		})
	}, three...)
}

// A node that only hears the leader can have commands carried out.
func TestOnlyLeaderInContact(t *testing.T) {
	running(t, func(l *lab) {
		leader := l.leader().cfg.Name
		for _, name := range three {
			if name != leader {
				l.net.part([]string{"n4"}, []string{name})
			}
		}
		time.Sleep(5 * time.Second)
		n4 := l.node("n4")
		l.net.slow([]string{"n4"}, []string{leader}, 200*time.Millisecond)
		for i := range 10 {
			n4.do(create(fmt.Sprint("v", i)))
			time.Sleep(300 * time.Millisecond)
		}
	}, "n1", "n2", "n3", "n4")
}
