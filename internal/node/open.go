package node

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"blkd/blockdev"
	"blkd/internal/units"
)

// openVolumes opens every volume in the data directory, and creates those of
// specs that are absent. A volume for which that does not work is kept as failed
// and does not stop the others.
func (n *Node) openVolumes(specs []VolumeSpec) error {
	dir := filepath.Join(n.cfg.DataDir, volumesDir)
	names, err := n.fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	found := map[string]*volume{}
	for _, name := range names {
		if CheckVolumeName(name) != nil {
			n.log.Warn("not a volume, left alone", "path", filepath.Join(dir, name))
			continue
		}
		found[name] = &volume{name: name, dir: n.volumeDir(name)}
	}
	for _, spec := range specs {
		v := &volume{name: spec.Name, dir: n.volumeDir(spec.Name), want: spec.Size}
		found[spec.Name] = v
		n.ensure(v)
	}

	// Recovery reads the logs; several volumes can do that at once.
	var wait sync.WaitGroup
	for _, v := range found {
		n.insert(v)
		wait.Go(func() { n.open(v) })
	}
	wait.Wait()
	for _, v := range n.list() {
		if err := n.export(v); err != nil {
			n.log.Error("volume is not served", "volume", v.name, "err", err)
		}
	}
	return nil
}

// ensure creates a volume that the configuration names, unless it exists.
func (n *Node) ensure(v *volume) {
	err := blockdev.CreateStore(n.storeOptions(v), v.want)
	switch {
	case err == nil:
		v.created = true
		n.log.Debug("volume created", "volume", v.name, "size", units.Exact(v.want))
	case !errors.Is(err, fs.ErrExist):
		v.setStore(nil, fmt.Errorf("creating it failed: %w", err))
	}
}

// open opens a volume's store and records the outcome.
func (n *Node) open(v *volume) {
	if _, err := v.running(); err != nil {
		return // it could not even be created
	}
	s, err := blockdev.OpenStore(n.storeOptions(v))
	v.setStore(s, err)
}

// storeOptions are the options of a volume's store; its events end up in the
// volume's state and in the log.
func (n *Node) storeOptions(v *volume) blockdev.StoreOptions {
	logSize, _ := optionalSize(n.cfg.Store.LogSize) // validated at start
	cache, _ := optionalSize(n.cfg.Store.Cache)
	return blockdev.StoreOptions{
		FS: n.fs, Dir: v.dir, Volume: v.name,
		LogBytes: logSize, CacheBytes: cache,
		FailOnFull:  n.cfg.Store.OnFull == "fail",
		NoChecksums: n.cfg.Store.NoChecksums,
		Events:      n.storeEvents(v),
	}
}

func (n *Node) storeEvents(v *volume) blockdev.StoreEvents {
	log := n.log.With("volume", v.name)
	return blockdev.StoreEvents{
		Failed: func(err error) {
			if !v.fail(err) {
				return
			}
			log.Error("volume failed: a disk error stopped its store; its clients are disconnected", "err", err)
			// Not from the store's goroutine, which may hold what the NBD
			// server waits for.
			go n.withdraw(v)
		},
		Full: func(full bool) {
			v.setFull(full)
			if full {
				p := fullProblem(n.cfg.DataDir, n.cfg.Store.OnFull)
				log.Warn(p.Text, "advice", p.Advice)
			} else {
				log.Info("the disk has space again")
			}
		},
		BadBlock: func(b *blockdev.ChecksumError) {
			if v.addBad(b) {
				log.Error("bad block", "offset", b.Off, "file", b.File, "file_offset", b.FileOff)
			}
		},
		Recovered: func(r blockdev.Recovery) {
			log.Info("volume recovered after an unclean stop", "entries", r.Entries, "bytes", r.Bytes, "cut", r.Cut)
		},
	}
}

// closeVolumes flushes and closes every store, all at once: each may have a log
// to pour.
func (n *Node) closeVolumes() error {
	all := n.list()
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, v := range all {
		wait.Go(func() {
			if _, failed := v.running(); failed != nil {
				v.close() // its error is the one already told
				return
			}
			if err := v.close(); err != nil {
				errs[i] = fmt.Errorf("close volume %s: %w", v.name, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}
