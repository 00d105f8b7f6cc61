package fencing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"
	"syscall"

	"blkd/internal/env"
	"blkd/internal/mutant"
)

// GateFile is the name of a gate's file in its replica's directory.
const GateFile = "promise"

var (
	// ErrNoGate tells that there is no promise in the directory. A replica that
	// has ever answered a seal must not go on without it.
	ErrNoGate = errors.New("there is no promise")
	// ErrLower tells that a higher generation was promised.
	ErrLower = errors.New("a higher generation was promised")
	// ErrLineage tells that the promise is of another lineage of the volume, or
	// that the lineage was left and must not be entered again.
	ErrLineage = errors.New("the promise is of another lineage")
)

// Gate is the promise of one replica: which generation is the lowest whose
// messages it may act on, and in which lineage of the volume.
//
//	unbound ──Promise(L, g)──► (L, g) ──Promise(L, g' ≥ g)──► (L, g')
//	                             │
//	                             └──Adopt(L', g')──► (L', g'), and L is left for ever
//
// Within a lineage the promise never falls. Another lineage is another history of
// the volume, and its generations have nothing to do with those before: they may be
// lower, when the metadata were restored from a backup. To enter it is the end of
// every promise in the old one; so that no promise is ever taken back by leaving and
// returning, a gate remembers what it has left and never goes there again.
//
// What a method has promised is durable when it returns. A write or sync that fails
// is final: nobody knows what is on the disk, so every later promise fails too, and
// this run of the replica has to end. A Gate is safe for concurrent use.
type Gate struct {
	name string
	file env.File
	lock io.Closer

	mu     sync.Mutex
	is     promise
	failed error
}

// CreateGate makes the gate of a new replica in dir, which must exist: unbound,
// nothing promised. It fails with fs.ErrExist if there is one. What an earlier
// attempt left that was cut short is replaced.
func CreateGate(fsys env.FS, dir string) error {
	name, unfinished := path.Join(dir, GateFile), path.Join(dir, GateFile+".new")
	if f, err := fsys.Open(name, syscall.O_RDWR); err == nil {
		return errors.Join(fmt.Errorf("create promise %s: %w", name, fs.ErrExist), f.Close())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create promise: %w", err)
	}
	f, err := fsys.Open(unfinished, syscall.O_RDWR|syscall.O_CREAT|syscall.O_TRUNC)
	if err != nil {
		return fmt.Errorf("create promise: %w", err)
	}
	b := make([]byte, gateBytes)
	for serial := range uint64(gateSlots) {
		p := promise{serial: serial}
		p.encode(b[slotOffset(serial):])
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fsys.Rename(unfinished, name)
	}
	if err == nil && !mutant.On(mutant.GateForgetName) {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("create promise %s: %w", name, err)
	}
	return nil
}

// OpenGate opens the gate in dir for this process alone. The error matches
// ErrNoGate if there is none, and says so if the file is damaged.
//
// What it finds, and the file's name, may be in the page cache only, left by a
// process that died before its sync or whose sync failed. So it is written again and
// synced before anyone hears of it.
func OpenGate(fsys env.FS, dir string) (*Gate, error) {
	g := &Gate{name: path.Join(dir, GateFile)}
	if err := g.open(fsys, dir); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Gate) open(fsys env.FS, dir string) (err error) {
	switch g.file, err = fsys.Open(g.name, syscall.O_RDWR); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open promise %s: %w", g.name, ErrNoGate)
	case err != nil:
		return fmt.Errorf("open promise: %w", err)
	}
	if g.lock, err = fsys.Lock(g.name); err != nil {
		return fmt.Errorf("open promise: %w", err)
	}
	b := make([]byte, gateBytes)
	if _, err := g.file.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read promise %s: %w", g.name, err)
	}
	if g.is, err = newestPromise(b); err != nil {
		return fmt.Errorf("promise %s: %w; it must not be guessed: "+
			"take this replica out of the volume and let it be copied anew", g.name, err)
	}
	if mutant.On(mutant.GateTrustCache) {
		return nil
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("open promise: %w", err)
	}
	return g.store(g.is)
}

// Promised is what was promised: 0, 0 of a new gate. It is durable.
func (g *Gate) Promised() (lineage uint64, gen Generation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.is.lineage, g.is.gen
}

// Promise promises never again to act for a generation below gen in the lineage,
// which must not be 0. To promise the same again changes nothing. The error matches
// ErrLower if more was promised, and ErrLineage if anything was promised in another
// lineage; then nothing changes either.
func (g *Gate) Promise(lineage uint64, gen Generation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if lineage != g.is.lineage && g.is.gen != 0 && g.failed == nil {
		return fmt.Errorf("promise generation %d in lineage %016x: generation %d was promised in lineage %016x: %w",
			gen, lineage, g.is.gen, g.is.lineage, ErrLineage)
	}
	return g.change(lineage, gen)
}

// Adopt leaves the present lineage for ever and promises gen in another one. It is
// for a replica whose part in the old lineage is over: it was forced to be the
// primary of the new one, or has been emptied to be copied to. In the present
// lineage it does what Promise does. The error matches ErrLineage if the lineage
// was left before.
func (g *Gate) Adopt(lineage uint64, gen Generation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.change(lineage, gen)
}

func (g *Gate) change(lineage uint64, gen Generation) error {
	next := promise{lineage: lineage, gen: gen, left: g.is.left}
	switch {
	case g.failed != nil:
		return g.failed
	case lineage == 0:
		return fmt.Errorf("promise generation %d: no lineage: %w", gen, ErrLineage)
	case lineage == g.is.lineage && gen == g.is.gen:
		return nil
	case lineage == g.is.lineage && gen < g.is.gen && !mutant.On(mutant.GateAcceptLower):
		return fmt.Errorf("promise generation %d: generation %d was promised: %w", gen, g.is.gen, ErrLower)
	case slices.Contains(g.is.left, lineage):
		return fmt.Errorf("promise generation %d: lineage %016x was left for %016x: %w", gen, lineage, g.is.lineage, ErrLineage)
	case lineage != g.is.lineage && g.is.gen != 0 && !mutant.On(mutant.GateForgetLineage):
		if len(g.is.left) == maxLeft {
			return fmt.Errorf("promise generation %d: this replica has left %d lineages, and remembers no more; "+
				"remove it from the volume and add it again", gen, maxLeft)
		}
		next.left = append(slices.Clone(g.is.left), g.is.lineage)
	}
	next.serial = g.is.serial
	return g.store(next)
}

// store writes p, with the next serial, over the older slot, and takes it for the
// present promise once it is durable.
func (g *Gate) store(p promise) error {
	p.serial++
	b := make([]byte, slotBytes)
	p.encode(b)
	_, err := g.file.WriteAt(b, slotOffset(p.serial))
	if err == nil && !mutant.On(mutant.GateSkipSync) {
		err = g.file.Sync()
	}
	if err != nil {
		g.failed = fmt.Errorf("write promise %s: %w; nothing more is promised until the node is restarted", g.name, err)
		return g.failed
	}
	g.is = p
	return nil
}

// Close lets another process open the gate.
func (g *Gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed == nil {
		g.failed = fmt.Errorf("promise %s: %w", g.name, fs.ErrClosed)
	}
	var errs []error
	if g.file != nil {
		errs = append(errs, g.file.Close())
	}
	if g.lock != nil {
		errs = append(errs, g.lock.Close())
	}
	g.file, g.lock = nil, nil
	return errors.Join(errs...)
}
