package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"blkd/internal/env/crashfs"
	"blkd/metadata/metapb"
)

func TestFound(t *testing.T) {
	for _, c := range []struct{ nodes, voters int }{{1, 1}, {3, 3}, {4, 3}, {5, 5}, {6, 5}} {
		t.Run(fmt.Sprintf("%d nodes", c.nodes), func(t *testing.T) {
			var names []string
			for i := range c.nodes {
				names = append(names, fmt.Sprintf("n%d", i+1))
			}
			run(t, func(l *lab) {
				l.start(names...)
				l.Logf("founded after %v", l.settle(names...))
				id := l.node("n1").Status().Cluster
				for _, n := range l.up() {
					st := n.Status()
					if st.Cluster != id || id == 0 || st.Have != c.voters || st.Need != c.voters/2+1 || len(st.Missing) != 0 || !slices.Equal(st.Voters, names[:c.voters]) {
						t.Errorf("%s: %+v", st.Name, st)
					}
					if r := n.record(st.Name); r.GetIncarnation() != st.Incarnation || r.GetHealth() != metapb.Health_HEALTH_UP {
						t.Errorf("%s is recorded as %v", st.Name, r)
					}
				}
			}, names...)
		})
	}
}

// Nothing is founded before all nodes of the list have been seen, and whoever
// waits says for whom.
func TestFoundingWaitsForAll(t *testing.T) {
	run(t, func(l *lab) {
		l.start("n1", "n3")
		l.wait("waiting for n2", func() bool {
			st := l.node("n1").Status()
			return st.Phase == Founding && strings.Contains(st.Waiting, "waits for n2: n2:7400: connection refused")
		})
		if _, err := l.node("n1").ask(patience, create("v")); !noQuorum(err) || !strings.Contains(err.Error(), "this node is founding") {
			t.Errorf("before the founding: %v", err)
		}
		l.start("n2")
		l.settle("n1", "n2", "n3")
	}, "n1", "n2", "n3")
}

func TestListsDiffer(t *testing.T) {
	run(t, func(l *lab) {
		l.start("n1", "n2")
		l.node("n3").cfg.List = []Peer{{"n1", "n1:7400"}, {"n3", "n3:7400"}, {"n4", "n4:7400"}}
		l.start("n3")
		l.wait("refused for its list", func() bool {
			a, b := l.node("n1").Status(), l.node("n3").Status()
			return strings.Contains(a.Waiting, "the founding lists differ") && strings.Contains(a.Waiting, "n3=n3:7400,n4=n4:7400") &&
				strings.Contains(b.Waiting, "the founding lists differ") && strings.Contains(b.Advice, "--cluster")
		})
		l.node("n3").stop()
		l.node("n3").cfg.List = l.list
		l.start("n3")
		l.settle("n1", "n2", "n3")
	}, "n1", "n2", "n3")
}

// A node may crash at any moment while a cluster is founded, also so that its
// disk forgets what was not durable: it goes on where it was, and the cluster is
// the one that the others founded.
func TestCrashWhileFounding(t *testing.T) {
	crashes := 0
	for after := uint64(1); after < 40; after++ {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			run(t, func(l *lab) {
				l.start("n1", "n3")
				l.start("n2")
				n2 := l.node("n2")
				n2.disk.FailAfter(after)
				l.wait("crashed or settled", func() bool {
					return n2.disk.Off() || n2.Status().Phase == Member && l.node("n1").Status().Phase == Member
				})
				if n2.disk.Off() {
					crashes++
				}
				n2.powerOff(after)
				l.start("n2")
				l.settle("n1", "n2", "n3")
				l.node("n2").do(create("v"))
				if st := n2.Status(); st.ID != 2 || st.Cluster != l.node("n1").Status().Cluster {
					t.Errorf("%+v", st)
				}
			}, "n1", "n2", "n3")
		})
	}
	if crashes < 10 {
		t.Errorf("the disk failed only %d times", crashes)
	}
}

// A node that lost its data directory comes back under its old name and address:
// it must not vote, and says what to do.
func TestLostDirectory(t *testing.T) {
	running(t, func(l *lab) {
		n1, n3 := l.node("n1"), l.node("n3")
		n3.kill()
		n3.wipe()
		l.start("n3")
		l.wait("told to replace it", func() bool {
			st := n3.Status()
			return st.Phase == Founding && strings.Contains(st.Advice, "blkctl node replace n3") && strings.Contains(st.Waiting, "the data directory is empty")
		})
		if st := n3.Status(); st.ID != 0 || st.Cluster != 0 {
			t.Errorf("it takes part as %+v", st)
		}
		n1.do(replace("n3"))
		l.settle("n1", "n2", "n3")
		if st := n3.Status(); st.ID != 4 {
			t.Errorf("after the replacement it has Raft id %d", st.ID)
		}
		l.wait("a voter again", func() bool { return slices.Contains(n1.Status().Voters, "n3") && len(n1.Status().Voters) == 3 })
	}, "n1", "n2", "n3")
}

// The same before everybody has founded: the others know the disk with which
// they founded.
func TestLostDirectoryWhileFounding(t *testing.T) {
	run(t, func(l *lab) {
		l.start("n1", "n2", "n3")
		l.wait("founded by one", func() bool { return l.node("n1").Status().Cluster != 0 })
		n3 := l.node("n3")
		n3.kill()
		n3.wipe()
		l.start("n3")
		l.wait("told to replace it", func() bool { return strings.Contains(n3.Status().Advice, "blkctl node replace n3") })
		l.settle("n1", "n2")
	}, "n1", "n2", "n3")
}

func TestOtherDirectory(t *testing.T) {
	running(t, func(l *lab) {
		n3 := l.node("n3")
		n3.stop()
		n3.cfg.Name = "n2"
		if err := n3.start(); err == nil || !strings.Contains(err.Error(), "the data directory is that of node n3, not of n2; set --node-name n3") {
			t.Errorf("a node took the directory of another one: %v", err)
		}
	}, "n1", "n2", "n3")
}

// A node that belongs to another cluster is refused, and both sides say why.
func TestOtherCluster(t *testing.T) {
	running(t, func(l *lab) {
		n3 := l.node("n3")
		n3.kill()
		n3.wipe()
		n3.cfg.List = []Peer{{"n3", "n3:7400"}}
		l.start("n3")
		l.wait("named", func() bool {
			i := slices.IndexFunc(l.node("n1").Status().Peers, func(p PeerStatus) bool { return p.Name == "n3" })
			return strings.Contains(l.node("n1").Status().Peers[i].Why, "it refuses this node: it belongs to cluster") &&
				strings.Contains(l.log.String(), "node=n3 peer=n1 address=n1:7400 why=\"it belongs to cluster")
		})
		l.settle("n3")
		l.wait("not counted", func() bool { return l.node("n1").Status().Have == 2 })
		// What it has applied, as Raft id 1, says nothing of the node with that id here.
		for i := range 20 {
			n3.do(create(fmt.Sprint("v", i)))
		}
		time.Sleep(2 * time.Second)
		l.node("n1").kill()
		l.start("n1")
		l.settle("n1", "n2")
	}, "n1", "n2", "n3")
}

func TestFullDisk(t *testing.T) {
	running(t, func(l *lab) {
		n := l.follower()
		n.disk.Inject(crashfs.Rule{Ops: crashfs.OpSync})
		var asker *testNode
		for _, o := range l.up() {
			if o != n {
				asker = o
			}
		}
		asker.do(create("v"))
		l.wait("failed", func() bool { return n.Status().Phase == Failed })
		if _, err := n.ask(patience, create("w")); !noQuorum(err) || !strings.Contains(err.Error(), "this node is failed") {
			t.Errorf("a node whose disk failed answered %v", err)
		}
		asker.do(create("w"))
		n.kill()
		n.disk.ClearRules()
		l.start(n.cfg.Name)
		l.settle("n1", "n2", "n3")
	}, "n1", "n2", "n3")
}

func replace(name string) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_ReplaceNode{ReplaceNode: &metapb.ReplaceNode{Name: name}}}
}
