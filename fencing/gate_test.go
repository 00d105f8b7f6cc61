package fencing

import (
	"encoding/hex"
	"errors"
	"flag"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"blkd/blockdev"
	"blkd/internal/env"
	"blkd/internal/env/crashfs"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

const replicaDir = "/r"

// newDisk has a durable, empty directory for a replica.
func newDisk(t *testing.T) *crashfs.FS {
	t.Helper()
	fsys := crashfs.New()
	if err := errors.Join(fsys.MkdirAll(replicaDir), fsys.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	return fsys
}

func newGate(t *testing.T) (*Gate, *crashfs.FS) {
	t.Helper()
	fsys := newDisk(t)
	if err := CreateGate(fsys, replicaDir); err != nil {
		t.Fatal(err)
	}
	return openGate(t, fsys), fsys
}

func openGate(t *testing.T, fsys env.FS) *Gate {
	t.Helper()
	g, err := OpenGate(fsys, replicaDir)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func wantPromised(t *testing.T, g *Gate, lineage uint64, gen Generation) {
	t.Helper()
	if l, n := g.Promised(); l != lineage || n != gen {
		t.Fatalf("promised is generation %d in lineage %d, not %d in %d", n, l, gen, lineage)
	}
}

// TestGateRules goes through every transition of the picture at Gate.
func TestGateRules(t *testing.T) {
	g, fsys := newGate(t)
	wantPromised(t, g, 0, 0)
	for _, s := range []struct {
		what    string
		do      func(lineage uint64, gen Generation) error
		lineage uint64
		gen     Generation
		want    error
	}{
		{"no lineage", g.Promise, 0, 1, ErrLineage},
		{"bind", g.Promise, 1, 0, nil},
		{"bind elsewhere, nothing promised", g.Promise, 2, 0, nil},
		{"back, nothing promised", g.Promise, 1, 0, nil},
		{"first", g.Promise, 1, 5, nil},
		{"again", g.Promise, 1, 5, nil},
		{"lower", g.Promise, 1, 4, ErrLower},
		{"lower by adopting", g.Adopt, 1, 4, ErrLower},
		{"higher", g.Promise, 1, 9, nil},
		{"foreign", g.Promise, 2, 99, ErrLineage},
		{"adopt none", g.Adopt, 0, 99, ErrLineage},
		{"adopt, lower", g.Adopt, 2, 3, nil},
		{"lower in the new one", g.Promise, 2, 2, ErrLower},
		{"higher in the new one", g.Adopt, 2, 4, nil},
		{"return", g.Adopt, 1, 99, ErrLineage},
		{"return by promising", g.Promise, 1, 99, ErrLineage},
	} {
		lineage, gen := g.Promised()
		ops := fsys.Ops()
		err := s.do(s.lineage, s.gen)
		if !errors.Is(err, s.want) || (s.want == nil) != (err == nil) {
			t.Fatalf("%s: %v, want %v", s.what, err, s.want)
		}
		if err == nil {
			lineage, gen = s.lineage, s.gen
		} else if fsys.Ops() != ops {
			t.Errorf("%s: refused, and yet something was written", s.what)
		}
		wantPromised(t, g, lineage, gen)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g = openGate(t, fsys)
	wantPromised(t, g, 2, 4)
	if err := g.Adopt(1, 99); !errors.Is(err, ErrLineage) {
		t.Errorf("reopened, a lineage that was left can be entered again: %v", err)
	}
}

func TestGateRemembersManyLineages(t *testing.T) {
	g, _ := newGate(t)
	for lineage := uint64(1); lineage <= maxLeft+1; lineage++ {
		if err := g.Adopt(lineage, 1); err != nil {
			t.Fatalf("lineage %d: %v", lineage, err)
		}
	}
	if err := g.Adopt(1000, 1); err == nil {
		t.Error("a lineage was forgotten")
	}
	wantPromised(t, g, maxLeft+1, 1)
	if err := g.Promise(maxLeft+1, 2); err != nil {
		t.Error(err)
	}
}

func TestGateIsOpenedOnce(t *testing.T) {
	g, fsys := newGate(t)
	if _, err := OpenGate(fsys, replicaDir); err == nil {
		t.Error("opened twice")
	}
	if err := CreateGate(fsys, replicaDir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.Promise(1, 1); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("promised after Close: %v", err)
	}
	if err := openGate(t, fsys).Promise(1, 1); err != nil {
		t.Error(err)
	}
}

func TestGateMissing(t *testing.T) {
	if _, err := OpenGate(newDisk(t), replicaDir); !errors.Is(err, ErrNoGate) {
		t.Error(err)
	}
}

// TestGateOnDisk uses the operating system's files.
func TestGateOnDisk(t *testing.T) {
	dir := t.TempDir()
	if err := CreateGate(env.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	for n := range Generation(3) {
		g, err := OpenGate(env.OS{}, dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenGate(env.OS{}, dir); err == nil {
			t.Error("opened twice")
		}
		if _, was := g.Promised(); was != n {
			t.Errorf("promised %d, want %d", was, n)
		}
		if err := errors.Join(g.Promise(7, n+1), g.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGateRot: any one bad bit is survived; two bad copies of a slot are never
// taken for an older promise.
func TestGateRot(t *testing.T) {
	g, fsys := newGate(t)
	for gen := range Generation(4) {
		if err := g.Promise(5, gen+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	name := replicaDir + "/" + GateFile
	flip := func(off int64, bit uint) {
		t.Helper()
		if err := fsys.Corrupt(name, off, bit); err != nil {
			t.Fatal(err)
		}
	}
	check := func(off int64, bit uint) {
		g, err := OpenGate(fsys, replicaDir)
		if err != nil {
			t.Fatalf("bit %d of byte %d: %v", bit, off, err)
		}
		wantPromised(t, g, 5, 4)
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for off := int64(0); off < gateBytes; off += copyBytes {
		for at := range int64(gateSector) {
			bit := uint(at+off/copyBytes) % 8
			flip(off+at, bit)
			check(off+at, bit)
			// Opening wrote the other slot; twice, and both are new.
			check(off+at, bit)
		}
	}
	for slot := range int64(gateSlots) {
		first, second := slot*slotBytes+20, slot*slotBytes+copyBytes+30
		flip(first, 1)
		flip(second, 2)
		if _, err := OpenGate(fsys, replicaDir); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("slot %d is gone, and the gate opens: %v", slot, err)
		}
		flip(first, 1)
		flip(second, 2)
	}
	check(0, 0)
}

// The golden file must decode for ever.
func TestGateGolden(t *testing.T) {
	sample := promise{serial: 0x0102030405060709, lineage: 0x1112131415161718, gen: 0x21, left: []uint64{0xa1, 0xa2}}
	b := make([]byte, slotBytes)
	sample.encode(b)
	file := filepath.Join("testdata", "gate-v1", "slot.hex")
	if *rewrite {
		if err := os.WriteFile(file, []byte(hex.Dump(b[:gateSector])), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.Dump(b[:gateSector]); got != string(want) {
		t.Errorf("the encoding has changed:\n%s", got)
	}
	var p promise
	if err := p.decode(b[copyBytes:], 1); err != nil || p.serial != sample.serial || p.lineage != sample.lineage || p.gen != sample.gen || len(p.left) != 2 {
		t.Errorf("%+v, %v", p, err)
	}
}

// FuzzPromise: any bytes are a promise that comes back, or an error.
func FuzzPromise(f *testing.F) {
	b := make([]byte, slotBytes)
	p := promise{serial: 3, lineage: 1, gen: blockdev.Generation(2), left: []uint64{9}}
	p.encode(b)
	f.Add(b[:64], true)
	f.Add(b[:gateSector], false)
	f.Fuzz(func(t *testing.T, in []byte, sealed bool) {
		b := make([]byte, copyBytes)
		copy(b, in)
		if sealed {
			copy(b, gateMagic[:])
			le.PutUint32(b[12:], gateVersion)
			le.PutUint32(b[8:], crc32.Checksum(b[12:gateSector], castagnoli))
		}
		var p, again promise
		if p.decode(b, 1) != nil {
			return
		}
		slot := make([]byte, slotBytes)
		p.encode(slot)
		if err := again.decode(slot, 1); err != nil || again.gen != p.gen || again.lineage != p.lineage || len(again.left) != len(p.left) {
			t.Errorf("%+v comes back as %+v, %v", p, again, err)
		}
	})
}
