package node

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/units"
)

// createVolume makes, opens and exports a volume. Its errors are ready for the
// caller of the control interface, like those of all operations here.
func (n *Node) createVolume(name string, size int64) (*volume, error) {
	if err := cmp.Or(CheckVolumeName(name), checkVolumeSize(size)); err != nil {
		return nil, n.refuse(codes.InvalidArgument, "", "%v", err)
	}
	v := &volume{name: name, dir: n.volumeDir(name), busy: "being created"}
	if !n.insert(v) {
		return nil, n.refuse(codes.AlreadyExists, "blkctl volume show "+name, "volume %s exists already", name)
	}
	defer v.idle()
	if err := blockdev.CreateStore(n.storeOptions(v), size); err != nil {
		n.remove(name)
		return nil, n.refuse(codes.Internal, "", "volume %s cannot be created: %v", name, err)
	}
	n.open(v)
	if err := n.export(v); err != nil {
		return nil, n.refuse(codes.Internal, "blkctl volume delete "+name, "volume %s was created but cannot be served: %v", name, err)
	}
	n.log.Info("volume created", "volume", name, "size", units.Exact(size))
	return v, nil
}

// deleteVolume takes the export away, closes the store and removes its files. The
// note says what is left to do, if anything.
func (n *Node) deleteVolume(name string, force bool) (note string, err error) {
	v, release, err := n.hold(name, "being deleted")
	if err != nil {
		return "", err
	}
	defer release()
	if clients := n.connections()[name]; clients > 0 && !force {
		return "", n.refuse(codes.FailedPrecondition, "disconnect them, or add --force to cut them off",
			"volume %s has %s connected", name, count(clients, "client"))
	}
	n.withdraw(v)
	if err := v.close(); err != nil {
		n.log.Warn("closing a volume that is deleted", "volume", name, "err", err)
	}
	if err := blockdev.RemoveStore(n.fs, v.dir); err != nil {
		return "", n.refuse(codes.Internal, "blkctl volume delete "+name, "volume %s is only partly removed: %v", name, err)
	}
	n.remove(name)
	n.log.Info("volume deleted", "volume", name)
	if v.want != 0 {
		note = "the configuration still names volume " + name + ": take it out, or the next start creates it anew and empty"
	}
	return note, nil
}

// resizeVolume changes a volume's size. Clients that are connected see the new
// size when they connect again.
func (n *Node) resizeVolume(name string, size int64, allowShrink bool) (*volume, error) {
	if err := checkVolumeSize(size); err != nil {
		return nil, n.refuse(codes.InvalidArgument, "", "volume %s: %v", name, err)
	}
	v, release, err := n.hold(name, "being resized")
	if err != nil {
		return nil, err
	}
	defer release()
	store, err := n.store(v)
	if err != nil {
		return nil, err
	}
	if old := store.Size(); size < old && !allowShrink {
		return nil, n.refuse(codes.FailedPrecondition, "shrink the file system on it first, then add --allow-shrink",
			"volume %s would lose everything beyond %s (it has %s)", name, units.Exact(size), units.Exact(old))
	}
	if err := store.Resize(size); err != nil {
		return nil, n.refuse(codes.Internal, "blkctl status "+name, "volume %s cannot be resized: %v", name, err)
	}
	n.log.Info("volume resized", "volume", name, "size", units.Exact(size))
	return v, nil
}

// store is a volume's store, if it serves.
func (n *Node) store(v *volume) (*blockdev.Store, error) {
	s, err := v.running()
	if err != nil {
		return nil, n.refuse(codes.FailedPrecondition, "blkctl status "+v.name, "volume %s is not served: %v", v.name, err)
	}
	return s, nil
}

// progressEvery is how often a verification tells how far it is.
const progressEvery = 200 * time.Millisecond

// verifyVolume reads every allocated block of a volume and tells how far it is
// and, in the end, what it found.
func (n *Node) verifyVolume(ctx context.Context, name string, send func(*api.VerifyVolumeProgress) error) error {
	v, release, err := n.hold(name, "being verified")
	if err != nil {
		return err
	}
	defer release()
	store, err := n.store(v)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var last time.Time
	report, err := store.Verify(ctx, func(done, total int64) {
		if n.stopping.Err() != nil {
			cancel()
		}
		if time.Since(last) < progressEvery {
			return
		}
		last = time.Now()
		// A client that left cancels ctx, which ends the verification.
		_ = send(&api.VerifyVolumeProgress{CheckedBytes: done, TotalBytes: total})
	})
	if err != nil {
		if ctx.Err() != nil {
			return n.refuse(codes.Canceled, "", "verification of volume %s was stopped", name)
		}
		return n.refuse(codes.Internal, "blkctl status "+name, "volume %s cannot be verified: %v", name, err)
	}
	v.setBad(report.Bad)
	n.log.Info("volume verified", "volume", name, "bytes", report.Checked, "bad_blocks", report.BadTotal)
	result := &api.VerifyVolumeProgress{CheckedBytes: report.Checked, TotalBytes: store.Size(), Done: true, BadTotal: report.BadTotal}
	for _, b := range report.Bad {
		result.BadBlocks = append(result.BadBlocks, &api.BadBlock{Offset: b.Off, File: b.File, FileOffset: b.FileOff})
	}
	return send(result)
}
