package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"blkd/blockdev"
	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
)

const pattern = 4 << 10 // of data, and of a hole

// rebuild measures, of an erasure code, how quickly a shard is rebuilt: of a volume that
// is full, and of one of which every second block is a hole. It tells, too, how much
// space the shards of the full one take.
func rebuild(ctx context.Context, o *options) error {
	if o.data == 0 {
		fmt.Println("rebuild is left out: it is of -layout ec:K+M")
		return nil
	}
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	var rates [2]float64
	for i, half := range []bool{false, true} {
		if half {
			if err := r.punch(ctx); err != nil {
				return err
			}
		} else if err := r.write(ctx, size); err != nil {
			return err
		}
		if err := r.poured(ctx); err != nil {
			return err
		}
		if !half {
			taken, err := r.taken()
			if err != nil {
				return err
			}
			raw := float64(size) / float64(taken)
			fmt.Printf("the shards of %d MiB take %d MiB: %.3f of them is usable, %.3f of what %d of %d are\n",
				int64(size)>>20, taken>>20, raw, raw*float64(o.width())/float64(o.data), o.data, o.width())
		}
		took, err := r.rebuildOne(ctx)
		if err != nil {
			return err
		}
		rates[i] = float64(size/o.data) / took.Seconds()
		fmt.Printf("a shard is rebuilt in %v, every second block a hole: %v; %.0f MiB/s\n", took.Round(time.Millisecond), half, rates[i]/(1<<20))
	}
	fmt.Printf("with holes / full: %.2f\n", rates[1]/rates[0])
	return nil
}

// punch makes every second block a hole.
func (r *rig) punch(ctx context.Context) error {
	for off := int64(0); off < size && ctx.Err() == nil; off += 2 * pattern {
		if err := blockdev.Trim(r.dev, off, pattern, 0); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// poured waits until what was written is in the shards: it is there soon after the last
// write.
func (r *rig) poured(ctx context.Context) error {
	if err := blockdev.Flush(r.dev); err != nil {
		return err
	}
	return sleep(ctx, 10*time.Second)
}

// taken is the space that all shards take on disk, without their logs.
func (r *rig) taken() (bytes int64, err error) {
	for _, n := range r.copies {
		dirs, err := filepath.Glob(filepath.Join(r.data(n), "volumes", volume+".*", "shard"))
		if err != nil || len(dirs) != 1 {
			return 0, fmt.Errorf("%d shards of volume %s are on %s: %w", len(dirs), volume, n.Name, err)
		}
		err = filepath.WalkDir(dirs[0], func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "log" {
				return err
			}
			var s syscall.Stat_t
			if err := syscall.Stat(name, &s); err != nil {
				return err
			}
			bytes += s.Blocks * 512
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return bytes, nil
}

// rebuildOne has the shard of a member that is not the primary rebuilt, and tells how
// long that took.
func (r *rig) rebuildOne(ctx context.Context) (time.Duration, error) {
	if err := r.volume.Level(ctx); err != nil {
		return 0, err
	}
	p, err := r.volume.Primary(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = r.volumes().InvalidateReplica(ctx, &api.InvalidateReplicaRequest{Name: volume, Node: r.some(p, 2)[1].Name, Request: clustertest.NewRequest()})
	if err != nil {
		return 0, err
	}
	err = r.volume.Level(ctx)
	return time.Since(began), err
}
