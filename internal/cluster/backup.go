package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/internal/env"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// restoreLift is added to the generations of restored volumes: more than a cluster
// can have used after its backup, a thousand promotions a day for years.
const restoreLift = 1_000_000

// backup is what a blank node founds a new cluster from. A nil one is none.
type backup struct {
	hash  [sha256.Size]byte // of the file: all founders must have the same
	state []byte            // as a new cluster begins with it
	about string            // "cluster 0123456789abcdef as of 2026-03-01T12:00:00Z"
}

// readBackup reads the backup that an operator has put there. Once the node
// belongs to a cluster it has served.
func (c *Cluster) readBackup() error {
	if c.cfg.Backup == "" {
		return nil
	}
	file, err := readFile(c.world.FS, c.cfg.Backup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if c.identity.Cluster != 0 {
		c.dropBackup()
		return nil
	}
	if err == nil {
		c.backup, err = parseBackup(file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w; restore another one with blkctl cluster snapshot restore, or remove it", c.cfg.Backup, err)
	}
	return nil
}

func parseBackup(file []byte) (*backup, error) {
	saved, err := api.DecodeBackup(file)
	if err != nil {
		return nil, err
	}
	if v := saved.State.Version; v > versionMax {
		return nil, fmt.Errorf("it is of cluster version %d, and this build speaks %d to %d", v, versionMin, versionMax)
	}
	state, err := proto.Marshal(saved.State)
	if err != nil {
		return nil, err
	}
	if _, err := metadata.DecodeState(state); err != nil {
		return nil, err
	}
	return &backup{sha256.Sum256(file), state,
		fmt.Sprintf("cluster %016x as of %s", saved.State.Cluster, time.Unix(0, saved.Time).UTC().Format(time.RFC3339))}, nil
}

// sum tells one backup from another; nil: there is none.
func (b *backup) sum() []byte {
	if b == nil {
		return nil
	}
	return b.hash[:]
}

func (b *backup) content() []byte {
	if b == nil {
		return nil
	}
	return b.state
}

// begin makes the first command of a cluster one that begins with the backup.
// Like it, it must be the same on all founders.
func (b *backup) begin(command *metapb.Command) {
	if b == nil {
		return
	}
	f := command.GetFoundCluster()
	command.By, command.Reason = "blkctl cluster snapshot restore", "restored from "+b.about
	command.Op = &metapb.Command_RestoreCluster{RestoreCluster: &metapb.RestoreCluster{Cluster: f.Cluster, Founders: f.Founders, Lift: restoreLift}}
}

// backupWords says what a node founds from.
func backupWords(sum []byte) string {
	if len(sum) == 0 {
		return "has no snapshot to restore"
	}
	return fmt.Sprintf("restores the snapshot with SHA-256 %x…", sum[:min(len(sum), 6)])
}

// dropBackup removes the backup, which has served. A copy that cannot be removed
// does no harm while the node belongs to a cluster.
func (c *Cluster) dropBackup() {
	if c.cfg.Backup == "" {
		return
	}
	err := c.world.FS.Remove(c.cfg.Backup)
	if err == nil {
		err = c.world.FS.SyncDir(filepath.Dir(c.cfg.Backup))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("a snapshot that has been restored cannot be removed; remove it before this node is made blank", "file", c.cfg.Backup, "err", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backup = nil
}

// readFile reads a whole file.
func readFile(disk env.FS, name string) ([]byte, error) {
	f, err := disk.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	content := make([]byte, size)
	if _, err := f.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return content, nil
}
