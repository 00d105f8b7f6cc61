package cluster

import (
	"strings"
	"testing"
	"time"

	"blkd/internal/env/crashfs"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// What became of a node's replicas depends on how its last run ended: only what
// provably lost nothing counts on.
func TestMembershipAfterRestart(t *testing.T) {
	for _, c := range []struct {
		name     string
		end      func(*testNode)
		amnesiac bool
	}{
		{"stopped, machine restarted", func(n *testNode) { n.stop(); n.boot = "boot 2" }, false},
		{"killed, machine still runs", (*testNode).kill, false},
		{"killed, machine restarted", func(n *testNode) { n.kill(); n.boot = "boot 2" }, true},
		{"power off", func(n *testNode) { n.powerOff(1) }, true},
		{"stopped uncleanly, machine restarted", func(n *testNode) { n.unclean(false); n.stop(); n.boot = "boot 2" }, true},
		{"stopped uncleanly, machine still runs", func(n *testNode) { n.unclean(false); n.stop() }, false},
		{"stopped on an I/O error", func(n *testNode) { n.unclean(true); n.stop() }, true},
		{"killed after an I/O error", func(n *testNode) { n.unclean(true); n.kill() }, true},
		{"stopped twice, machine restarted", func(n *testNode) {
			n.stop()
			n.lab.start(n.cfg.Name)
			n.lab.settle(n.cfg.Name)
			n.kill()
			n.boot = "boot 2"
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			running(t, func(l *lab) {
				n := l.node("n3")
				command := create("v")
				command.GetCreateVolume().Nodes = []string{"n3"}
				n.do(command)
				c.end(n)
				l.start("n3")
				l.settle(three...)
				var m *metapb.Member
				n.view(func(s *metadata.State) { m = s.Volume("v").Members[0] })
				if m.Incarnation != n.Status().Incarnation || m.Amnesiac != c.amnesiac {
					t.Errorf("its replica is recorded as %v, its run is %d", m, n.Status().Incarnation)
				}
			}, three...)
		})
	}
}

func (n *testNode) unclean(ioError bool) {
	n.lab.Helper()
	if err := n.Unclean(ioError); err != nil {
		n.lab.Fatal(err)
	}
}

// A disk that is older than what the others know of the node is refused before it
// takes part, whichever way it is found out.
func TestOldDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		more func(*lab, *testNode) // what happens after the copy was made
		text string
	}{
		{"a run later", func(l *lab, n *testNode) {
			n.kill()
			l.start("n3")
			l.settle(three...)
		}, "which this disk does not"},
		{"in the same run", func(l *lab, n *testNode) {
			l.node("n1").do(create("v"))
			l.wait("seen", func() bool { return n.Status().Applied == l.node("n1").Status().Applied })
			time.Sleep(time.Second) // for a heartbeat to tell it
		}, "has seen it apply entry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			running(t, func(l *lab) {
				n := l.node("n3")
				copied := n.disk.CrashMode(crashfs.AllKept, 0)
				c.more(l, n)
				n.kill()
				n.disk = copied
				l.start("n3")
				l.wait("refused", func() bool {
					st := n.Status()
					return st.Phase == Refused && strings.Contains(st.Waiting, "is an old copy") && strings.Contains(st.Waiting, c.text) &&
						strings.Contains(st.Advice, "blkctl node replace n3")
				})
				n.stop()
				n.wipe()
				l.node("n1").do(replace("n3"))
				l.start("n3")
				l.settle(three...)
			}, three...)
		})
	}
}

// Two disks of the same node, one a copy of the other, cannot both run.
func TestClonedDisk(t *testing.T) {
	running(t, func(l *lab) {
		n := l.node("n3")
		copied := n.disk.CrashMode(crashfs.AllKept, 0)
		clone := &testNode{lab: l, boot: "boot 9", disk: copied, cfg: n.cfg}
		clone.cfg.Address = "n9:7400"
		l.nodes["n9"] = clone
		l.start("n9")
		l.wait("refused", func() bool {
			return clone.Status().Phase == Starting && strings.Contains(clone.Status().Waiting, "it refuses this node: another run of node n3 is alive")
		})
		time.Sleep(10 * time.Second)
		before := n.Status()
		if st := clone.Status(); st.Phase != Starting {
			t.Errorf("the copy: %+v", st)
		}
		l.node("n1").do(create("v")) // the copy has not seen it, and is told so
		l.wait("refused for good", func() bool { return clone.Status().Phase == Refused })
		if st := n.Status(); st.Phase != Member || st.Term != before.Term || st.Have != 3 {
			t.Errorf("the original: %+v, before: %+v", st, before)
		}
	}, three...)
}

// All nodes stop at once, as when the power of a site fails, and come back in any
// order: what was answered is there.
func TestSitePowerLoss(t *testing.T) {
	running(t, func(l *lab) {
		for seed := range uint64(8) {
			name := string(rune('a' + seed))
			l.node("n1").do(create(name))
			for _, n := range l.up() {
				n.powerOff(seed)
			}
			l.start("n3", "n1", "n2")
			l.settle(three...)
			for _, n := range l.up() {
				if !n.hasVolume(name) {
					t.Fatalf("%s lost volume %s", n.cfg.Name, name)
				}
			}
		}
	}, three...)
}

// A slow network is no reason for another leader.
func TestSlowNetwork(t *testing.T) {
	running(t, func(l *lab) {
		l.net.slow(three, three, 40*time.Millisecond)
		term := l.leader().Status().Term
		for i := range 20 {
			l.node("n1").do(create(string(rune('a' + i))))
			time.Sleep(500 * time.Millisecond)
		}
		if now := l.leader().Status().Term; now != term {
			t.Errorf("with a round trip of 80 ms the leader changed: term %d, then %d", term, now)
		}
	}, three...)
}
