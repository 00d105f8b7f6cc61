package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// saved is the file that blkctl cluster snapshot save gets from a node.
func (n *testNode) saved() []byte {
	n.lab.Helper()
	b := &metapb.Backup{Format: 1, Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano(), State: new(metapb.State)}
	n.view(func(s *metadata.State) {
		if err := proto.Unmarshal(s.Encode(), b.State); err != nil {
			n.lab.Fatal(err)
		}
	})
	file, err := api.EncodeBackup(b)
	if err != nil {
		n.lab.Fatal(err)
	}
	return file
}

// stage puts a backup on the disk of a node.
func (n *testNode) stage(content []byte) {
	n.lab.Helper()
	n.cfg.Backup = api.StagedBackup
	f, err := n.disk.Open(n.cfg.Backup, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err == nil {
		_, err = f.WriteAt(content, 0)
	}
	if err = errors.Join(err, f.Sync(), f.Close(), n.disk.SyncDir(".")); err != nil {
		n.lab.Fatal(err)
	}
}

func (n *testNode) staged() bool {
	f, err := n.disk.Open(n.cfg.Backup, os.O_RDONLY)
	if err == nil {
		f.Close()
	}
	return !errors.Is(err, fs.ErrNotExist)
}

// saveAndWipe saves the metadata of a running cluster and takes its disks away.
// The volume "old" is in what was saved, "late" is not.
func saveAndWipe(l *lab) (file []byte, cluster uint64) {
	l.Helper()
	n1 := l.node("n1")
	n1.do(create("old"))
	file, cluster = n1.saved(), n1.Status().Cluster
	n1.do(create("late"))
	for _, n := range l.up() {
		n.stop()
		n.wipe()
	}
	return file, cluster
}

func (n *testNode) volume(name string) *metapb.Volume {
	n.lab.Helper()
	var v *metapb.Volume
	n.view(func(s *metadata.State) { v = s.Volume(name) })
	return v
}

func TestRestore(t *testing.T) {
	running(t, func(l *lab) {
		before := l.node("n1").do(create("pgdata")).Volume
		file, cluster := saveAndWipe(l)
		for _, n := range []string{"n1", "n2", "n3"} {
			l.node(n).stage(file)
		}
		l.start("n1", "n2", "n3")
		l.settle("n1", "n2", "n3")
		for _, n := range l.up() {
			if st := n.Status(); st.Cluster == cluster || st.Cluster == 0 {
				t.Errorf("%s belongs to cluster %016x, the one before was %016x", st.Name, st.Cluster, cluster)
			}
			if n.staged() {
				t.Errorf("%s still has the backup", n.cfg.Name)
			}
			if !n.hasVolume("old") || n.hasVolume("late") {
				t.Errorf("%s does not know the volumes of the backup", n.cfg.Name)
			}
		}
		v := l.node("n2").volume("pgdata")
		if v.Generation < before.Generation+1_000_000 || v.Number < before.Number+1_000_000 || v.Attachment.GetNumber() < 1_000_000 || v.Lineage == before.Lineage {
			t.Errorf("restored as generation %d, number %d, attachment %v, lineage %x; it was %v", v.Generation, v.Number, v.Attachment, v.Lineage, before)
		}
		if v.Primary != "" || len(v.Members) != 1 || !v.Members[0].Amnesiac {
			t.Errorf("its members are believed: %v", v)
		}
		l.node("n3").do(create("new"))

		// It is a cluster like any other: it stops, starts, and loses a node.
		for _, n := range l.up() {
			n.stop()
		}
		l.start("n2", "n3")
		l.settle("n2", "n3")
		if !l.node("n2").hasVolume("new") {
			t.Error("a volume that was made after the restore is gone")
		}
	}, "n1", "n2", "n3")
}

// TestRestoreNeedsTheSameFile: nothing is founded while the nodes would begin
// with different things, and each says so.
func TestRestoreNeedsTheSameFile(t *testing.T) {
	running(t, func(l *lab) {
		other := l.node("n2").saved()
		file, _ := saveAndWipe(l)
		l.node("n1").stage(file)
		l.node("n2").stage(other)
		l.start("n1", "n2", "n3")
		for _, n := range l.up() {
			l.wait(n.cfg.Name+" sees the difference", func() bool {
				st := n.Status()
				return strings.Contains(st.Waiting, "do not begin with the same") && strings.Contains(st.Advice, "blkctl cluster snapshot restore")
			})
		}
		if w := l.node("n3").Status().Waiting; !strings.Contains(w, "this node has no snapshot to restore") || !strings.Contains(w, "restores the snapshot with SHA-256") {
			t.Errorf("n3 says: %s", w)
		}
		for _, name := range []string{"n2", "n3"} {
			l.node(name).stop()
			l.node(name).stage(file)
			l.start(name)
		}
		l.settle("n1", "n2", "n3")
		if !l.node("n3").hasVolume("old") {
			t.Error("founded without the backup")
		}
	}, "n1", "n2", "n3")
}

// TestRestoreIgnoresOldNodes: a node that still has the disk of the old cluster is
// not believed, and a blank one with a backup does not slip into that cluster.
func TestRestoreIgnoresOldNodes(t *testing.T) {
	running(t, func(l *lab) {
		n1, n2, n3 := l.node("n1"), l.node("n2"), l.node("n3")
		n1.do(create("old"))
		file, cluster := n1.saved(), n1.Status().Cluster
		for _, n := range []*testNode{n1, n2} {
			n.stop()
			n.wipe()
			n.stage(file)
		}
		old := n3.disk
		l.start("n1", "n2")
		for _, n := range []*testNode{n1, n2} {
			l.wait(n.cfg.Name+" refuses to go on", func() bool {
				return n.Status().Cluster == 0 && strings.Contains(n.Status().Waiting, "the cluster of node n3 knows node "+n.cfg.Name)
			})
		}
		n3.stop()
		n3.wipe()
		n3.stage(file)
		l.start("n3")
		l.settle("n1", "n2", "n3")

		n3.kill()
		blank := n3.disk
		n3.disk = old
		l.start("n3")
		l.wait("n3 with its old disk is refused", func() bool {
			st := n1.Status()
			return strings.Contains(fmt.Sprint(st.Peers), fmt.Sprintf("and node n3 to %016x", cluster)) && st.Have == 2
		})
		if st := n3.Status(); st.Phase == Member {
			t.Errorf("n3 takes part: %+v", st)
		}
		n3.kill()
		n3.disk = blank
		l.start("n3")
		l.settle("n1", "n2", "n3")
	}, "n1", "n2", "n3")
}

// TestRestoreBesideCluster: a blank node with a backup that meets members of a
// cluster which would let it in says what the choice is.
func TestRestoreBesideCluster(t *testing.T) {
	running(t, func(l *lab) {
		file := l.node("n1").saved()
		l.node("n1").do(&metapb.Command{Op: &metapb.Command_AddNode{AddNode: &metapb.AddNode{Name: "n4", Address: "n4:7400"}}})
		n4 := l.node("n4")
		n4.stage(file)
		l.start("n4")
		l.wait("it says what the choice is", func() bool {
			st := n4.Status()
			return strings.Contains(st.Waiting, "already, and this node restores the snapshot") && strings.Contains(st.Advice, "to join that one, remove "+api.StagedBackup)
		})
		n4.stop()
		if err := n4.disk.Remove(api.StagedBackup); err != nil {
			t.Fatal(err)
		}
		l.start("n4")
		l.settle("n1", "n2", "n3", "n4")
	}, "n1", "n2", "n3")
}

// TestCrashWhileRestoring loses what was not durable on one node at any write of
// the restore: it goes on with what the others founded.
func TestCrashWhileRestoring(t *testing.T) {
	crashes := 0
	for after := uint64(1); after < 30; after += 2 {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			running(t, func(l *lab) {
				file, _ := saveAndWipe(l)
				for _, n := range []string{"n1", "n2", "n3"} {
					l.node(n).stage(file)
				}
				n2 := l.node("n2")
				l.start("n1", "n3", "n2")
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
				if n2.staged() || !n2.hasVolume("old") {
					t.Error("n2 has not restored")
				}
			}, "n1", "n2", "n3")
		})
	}
	t.Logf("%d crashes", crashes)
	if crashes < 5 {
		t.Errorf("the disk failed only %d times", crashes)
	}
}

// TestBadBackup: what cannot be restored keeps the node from starting.
func TestBadBackup(t *testing.T) {
	running(t, func(l *lab) {
		file, _ := saveAndWipe(l)
		n1 := l.node("n1")
		newer, err := api.DecodeBackup(file)
		if err != nil {
			t.Fatal(err)
		}
		newer.State.Version = versionMax + 1
		future, err := api.EncodeBackup(newer)
		if err != nil {
			t.Fatal(err)
		}
		for text, content := range map[string][]byte{
			"it is damaged":         append(append([]byte{}, file[:len(file)-1]...), file[len(file)-1]^1),
			"is no file of blkctl":  []byte("hello"),
			"it is of cluster vers": future,
		} {
			n1.stage(content)
			if err := n1.start(); err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "or remove it") {
				t.Errorf("want %q: %v", text, err)
			}
		}
	}, "n1", "n2", "n3")
}
