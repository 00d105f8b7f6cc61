package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// TestSnapshotRestore: the file is staged where blkd looks for it, unless that
// could do harm.
func TestSnapshotRestore(t *testing.T) {
	content, err := api.EncodeBackup(&metapb.Backup{Format: 1, Time: before(0), Index: 77,
		State: &metapb.State{Format: 1, Cluster: 0xabc, Nodes: []*metapb.Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}}})
	if err != nil {
		t.Fatal(err)
	}
	file, dir := filepath.Join(t.TempDir(), "meta.backup"), filepath.Join(t.TempDir(), "blkd")
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	restore := func() (Code, string, string) {
		return blkctl("--data-dir", dir, "cluster", "snapshot", "restore", file)
	}
	write(file, content)
	code, out, errs := restore()
	if code != OK || !strings.Contains(out, "cluster 0000000000000abc, 3 nodes, 0 volumes, as of 2026-03-01T12:00:00Z") ||
		!strings.Contains(out, "2. start blkd on all of them with the same list: --cluster n1=HOST:PORT,n2=HOST:PORT,n3=HOST:PORT") {
		t.Fatalf("exit code %d, %s%s", code, out, errs)
	}
	staged := filepath.Join(dir, api.StagedBackup)
	if got, err := os.ReadFile(staged); err != nil || string(got) != string(content) {
		t.Fatalf("staged: %v", err)
	}
	if code, _, errs := restore(); code != OK { // again, perhaps with a better file
		t.Errorf("a second time: exit code %d, %s", code, errs)
	}

	write(file, append(content[:len(content)-1:len(content)-1], content[len(content)-1]^1))
	if code, _, errs := restore(); code != Refused || !strings.Contains(errs, "it is damaged") {
		t.Errorf("a damaged file: exit code %d, %s", code, errs)
	}
	write(file, content)
	if err := os.Mkdir(filepath.Join(dir, api.MetadataDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := restore(); code != Refused || !strings.Contains(errs, "has a part in a cluster already") || !strings.Contains(errs, "mv "+dir+"/metadata "+dir+"/metadata.old") {
		t.Errorf("a node of a cluster: exit code %d, %s", code, errs)
	}
	if code, _, errs := blkctl("cluster", "snapshot", "restore", file+".none"); code != Failed || !strings.Contains(errs, "no such file") {
		t.Errorf("no file: exit code %d, %s", code, errs)
	}
}

// TestSnapshotRestoreAsRoot: blkd, whose directory it is, can read and remove what
// root has staged.
func TestSnapshotRestoreAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 4712); err != nil {
		t.Fatal(err)
	}
	if err := stage(dir, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", api.StagedBackup} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != 4711 || st.Gid != 4712 {
			t.Errorf("%s belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
		}
	}
}

// TestSnapshotRestoreWhileRunning: a blkd that runs there must not find the file
// later, when it is blank for another reason.
func TestSnapshotRestoreWhileRunning(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	err = stage(dir, nil)
	if e, ok := err.(*Error); !ok || e.Code != Refused || !strings.Contains(e.Text, "a blkd runs on") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, api.StagedBackup)); err == nil {
		t.Error("it was staged nevertheless")
	}
}
