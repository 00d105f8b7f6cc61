package fencing

import (
	"errors"
	"fmt"
	"testing"

	"blkd/internal/env/crashfs"
)

// gateStep is one thing that a replica does with its gate, and what is promised
// then.
type gateStep struct {
	name    string
	lineage uint64
	gen     Generation
}

// gateScript has every kind of change, also over a restart.
var gateScript = []gateStep{
	{"create", 0, 0}, {"open", 0, 0}, {"promise", 1, 1}, {"promise", 1, 2}, {"open", 1, 2}, {"promise", 1, 7},
	{"adopt", 2, 3}, {"promise", 2, 4}, {"open", 2, 4}, {"open", 2, 4}, {"adopt", 3, 1}, {"promise", 3, 2},
}

// gateWorld is one run of the script that ends early.
type gateWorld struct {
	fs      *crashfs.FS
	gate    *Gate
	created bool
	acked   gateStep // the last step that returned
	pending gateStep // the step that was under way
}

func newGateWorld() (*gateWorld, error) {
	w := &gateWorld{fs: crashfs.New()}
	return w, errors.Join(w.fs.MkdirAll(replicaDir), w.fs.SyncDir("/"))
}

// run goes through the script until a step fails.
func (w *gateWorld) run() error {
	for _, s := range gateScript {
		w.pending = s
		if err := w.step(s); err != nil {
			return err
		}
		w.acked, w.created = s, true
	}
	return nil
}

func (w *gateWorld) step(s gateStep) (err error) {
	switch s.name {
	case "create":
		return CreateGate(w.fs, replicaDir)
	case "open":
		if w.gate != nil {
			if err := w.gate.Close(); err != nil {
				return err
			}
		}
		w.gate, err = OpenGate(w.fs, replicaDir)
		return err
	case "promise":
		return w.gate.Promise(s.lineage, s.gen)
	default:
		return w.gate.Adopt(s.lineage, s.gen)
	}
}

// reopen is a new process. It checks that what is promised is what was answered
// last, or what was under way, and takes that for answered from now on: whoever
// opens the gate acts on it.
func (w *gateWorld) reopen() (err error) {
	w.gate, err = OpenGate(w.fs, replicaDir)
	if errors.Is(err, ErrNoGate) && !w.created {
		w.pending = gateStep{name: "create"}
		if err := CreateGate(w.fs, replicaDir); err != nil {
			return fmt.Errorf("create again: %w", err)
		}
		w.gate, err = OpenGate(w.fs, replicaDir)
	}
	if err != nil {
		return err
	}
	lineage, gen := w.gate.Promised()
	is := func(s gateStep) bool { return s.lineage == lineage && s.gen == gen }
	if !is(w.acked) && !is(w.pending) {
		return fmt.Errorf("promised is generation %d in lineage %d; %s %d in %d had been answered, and %s %d in %d was under way",
			gen, lineage, w.acked.name, w.acked.gen, w.acked.lineage, w.pending.name, w.pending.gen, w.pending.lineage)
	}
	w.created = true
	w.acked = gateStep{"open", lineage, gen}
	w.pending = w.acked
	return nil
}

// refuses checks that nothing is promised that would take a promise back.
func (w *gateWorld) refuses() error {
	lineage, gen := w.gate.Promised()
	if gen > 0 {
		if err := w.gate.Promise(lineage, gen-1); !errors.Is(err, ErrLower) {
			return fmt.Errorf("a lower generation: %v", err)
		}
	}
	for left := uint64(1); left < lineage; left++ {
		if err := w.gate.Adopt(left, 100); !errors.Is(err, ErrLineage) {
			return fmt.Errorf("lineage %d was left for %d, and is entered again: %v", left, lineage, err)
		}
	}
	return nil
}

// crash is the end of the machine, or of the process and then of the machine
// before anything else was written.
func (w *gateWorld) crash(mode crashfs.Mode, seed uint64, processFirst bool) error {
	if processFirst {
		w.fs.Kill()
		w.fs.ClearRules()
		if err := w.reopen(); err != nil {
			return fmt.Errorf("after the process: %w", err)
		}
	}
	w.fs = w.fs.CrashMode(mode, seed)
	if err := w.reopen(); err != nil {
		return err
	}
	if err := w.refuses(); err != nil {
		return err
	}
	next := gateStep{"promise", max(1, w.acked.lineage), w.acked.gen + 1}
	if err := w.gate.Promise(next.lineage, next.gen); err != nil {
		return err
	}
	w.acked, w.pending = next, next
	w.fs = w.fs.CrashMode(mode, seed+1)
	return w.reopen()
}

// gateCrashes cuts the power at every operation of the script, in every mode.
func gateCrashes() error {
	for cut := uint64(1); ; cut++ {
		for mode := crashfs.AllLost; mode <= crashfs.OneKept; mode++ {
			for seed := range uint64(6) {
				w, err := newGateWorld()
				if err != nil {
					return err
				}
				w.fs.FailAfter(cut)
				if w.run() == nil {
					return nil // the script has no operation of that number
				}
				if err := w.crash(mode, seed, seed%2 == 0); err != nil {
					return fmt.Errorf("cut at operation %d, %s, seed %d: %w", cut, mode, seed, err)
				}
			}
		}
	}
}

// gateFailures fails every write and every sync of the script, once.
func gateFailures() error {
	for _, op := range []crashfs.Op{crashfs.OpWrite, crashfs.OpSync, crashfs.OpSyncDir, crashfs.OpRename, crashfs.OpCreate} {
		for skip := 0; ; skip++ {
			w, err := newGateWorld()
			if err != nil {
				return err
			}
			w.fs.Inject(crashfs.Rule{Ops: op, Skip: skip, Times: 1, Short: int64(skip) * 1500})
			if w.run() == nil {
				break
			}
			if err := w.failed(); err != nil {
				return fmt.Errorf("%s %d fails: %w", op, skip, err)
			}
			if err := w.crash(crashfs.AllLost, uint64(skip), true); err != nil {
				return fmt.Errorf("%s %d fails: %w", op, skip, err)
			}
		}
	}
	return nil
}

// failed checks that a gate whose write or sync failed is never used again.
func (w *gateWorld) failed() error {
	if w.gate == nil {
		return nil
	}
	ops := w.fs.Ops()
	lineage, gen := w.gate.Promised()
	if err := w.gate.Adopt(max(1, lineage), gen+1); err == nil || w.fs.Ops() != ops {
		return fmt.Errorf("after a failure something is tried again: %v", err)
	}
	if lineage != w.acked.lineage || gen != w.acked.gen {
		return fmt.Errorf("after a failure generation %d in lineage %d counts as promised", gen, lineage)
	}
	return nil
}

func TestGateCrash(t *testing.T) {
	if err := gateCrashes(); err != nil {
		t.Error(err)
	}
}

func TestGateFailures(t *testing.T) {
	if err := gateFailures(); err != nil {
		t.Error(err)
	}
}

// TestGateScriptEnds: without a crash the script works.
func TestGateScriptEnds(t *testing.T) {
	w, err := newGateWorld()
	if err == nil {
		err = w.run()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := w.refuses(); err != nil {
		t.Error(err)
	}
}
