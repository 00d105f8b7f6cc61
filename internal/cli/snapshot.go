package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"blkd/internal/api"
	"blkd/internal/units"
	"blkd/metadata/metapb"
)

func (a *app) snapshotSaveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE",
		Short: "Saves the metadata of the cluster: nodes, volumes, histories; no data",
		Long: `Saves the metadata of the cluster as it is now: nodes, volumes with their records
and histories; not the data of the volumes. The file is replaced at once, when it
is complete, checked and durable.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				content, err := fetchSnapshot(ctx, n)
				if err != nil {
					return err
				}
				b, err := api.DecodeBackup(content)
				if err != nil {
					return &Error{Code: Failed, Text: "what the node sent is damaged: " + err.Error(), Advice: "try again"}
				}
				if err := replaceFile(args[0], content); err != nil {
					return &Error{Code: Failed, Text: "the snapshot was not saved: " + err.Error()}
				}
				return a.showSaved(newSaved(args[0], int64(len(content)), b), "saved to")
			})
		},
	}
}

func fetchSnapshot(ctx context.Context, n *node) ([]byte, error) {
	stream, err := n.cluster.SaveSnapshot(ctx, &api.SaveSnapshotRequest{})
	if err != nil {
		return nil, called(err)
	}
	var content []byte
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return content, nil
		}
		if err != nil {
			return nil, called(err)
		}
		content = append(content, part.Data...)
	}
}

func newSaved(file string, size int64, b *metapb.Backup) Saved {
	s := Saved{File: file, SizeBytes: size, Index: b.Index, Time: at(b.Time),
		Cluster: hex(b.State.Cluster), Nodes: len(b.State.Nodes), Volumes: len(b.State.Volumes), NodeNames: []string{}, Next: []string{}}
	for _, n := range b.State.Nodes {
		s.NodeNames = append(s.NodeNames, n.GetName())
	}
	return s
}

func (a *app) showSaved(s Saved, verb string) error {
	return show(a.Out, a.output, result{data: s, names: []string{s.File}, table: func(w io.Writer, _ bool) {
		fmt.Fprintf(w, "%s %s (%s): cluster %s, %s, %s, as of %s\n", verb, s.File, units.Size(s.SizeBytes), s.Cluster,
			plural(s.Nodes, "node", "nodes"), plural(s.Volumes, "volume", "volumes"), s.Time.Format(time.RFC3339))
		steps(w, s.Next)
	}})
}

func (a *app) snapshotRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Lets this machine's blkd found a new cluster from a snapshot",
		Long: `Checks a snapshot and puts it into the data directory of this machine, where blkd
must not run and must not belong to a cluster. Do this with the same file on every
node of the new cluster, then start blkd on all of them with the same --cluster
list: they found a new cluster that knows the volumes of the snapshot. They do so
only if all of them have that file.

It is for the case that a majority of the voters is lost for good. The new cluster
has another id, every volume a new lineage, and generations are lifted by a million,
beyond all that the old cluster can have used, so that no node of it is believed. A
node that keeps its volumes has only its metadata directory moved away; they recover
from what their members hold.`,
		Example: `  blkctl cluster snapshot restore meta.backup --data-dir /var/lib/blkd`,
		Args:    arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			content, err := os.ReadFile(args[0])
			if err != nil {
				return &Error{Code: Failed, Text: "reading the snapshot: " + err.Error()}
			}
			b, err := api.DecodeBackup(content)
			if err != nil {
				return &Error{Code: Refused, Text: args[0] + ": " + err.Error()}
			}
			if err := stage(a.dataDirectory(), content); err != nil {
				return err
			}
			s := newSaved(args[0], int64(len(content)), b)
			s.Next = afterRestore(s)
			return a.showSaved(s, "ready to found a new cluster from")
		},
	}
}

// afterRestore is what is left to do for the operator.
func afterRestore(s Saved) []string {
	list := make([]string, len(s.NodeNames))
	for i, name := range s.NodeNames {
		list[i] = name + "=HOST:PORT"
	}
	return []string{
		"restore the same file on every other node of the new cluster",
		"start blkd on all of them with the same list: --cluster " + strings.Join(list, ",") + " (other addresses, and other nodes, are fine)",
		"blkctl wait cluster --for=quorum; blkctl cluster status",
	}
}

// stage puts a snapshot where a blkd that has never belonged to a cluster looks
// for it. The data directory is locked meanwhile, as blkd locks it.
func stage(dir string, content []byte) error {
	failed := func(err error) error {
		return &Error{Code: Failed, Text: "data directory: " + err.Error(), Advice: "name blkd's data directory with --data-dir"}
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return failed(err)
	}
	lock, err := lockDirectory(dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return &Error{Code: Refused, Text: "a blkd runs on data directory " + dir, Advice: "stop it, or name another directory with --data-dir"}
	}
	if err != nil {
		return failed(err)
	}
	defer lock.Close()
	if _, err := os.Stat(filepath.Join(dir, api.MetadataDir)); !errors.Is(err, os.ErrNotExist) {
		if err != nil {
			return failed(err)
		}
		metadata := filepath.Join(dir, api.MetadataDir)
		return &Error{Code: Refused, Text: fmt.Sprintf("data directory %s has a part in a cluster already: %s", dir, metadata),
			Advice: fmt.Sprintf("if that cluster is lost for good: mv %s %s.old; then again", metadata, metadata)}
	}
	staged := filepath.Join(dir, api.StagedBackup)
	if err := replaceFile(staged, content); err != nil {
		return failed(err)
	}
	if err := giveToOwner(dir, lock.Name(), staged); err != nil {
		return failed(err)
	}
	return nil
}

// giveToOwner gives files to whom the directory belongs: root stages, and blkd,
// which has a user of its own, has to read them.
func giveToOwner(dir string, files ...string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	for _, f := range files {
		if err := os.Chown(f, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return nil
}

// lockDirectory takes the lock of a data directory, as blkd does.
func lockDirectory(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// replaceFile writes a file so that it is complete or as before, also after a
// crash.
func replaceFile(name string, content []byte) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
