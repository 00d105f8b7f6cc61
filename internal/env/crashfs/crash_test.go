package crashfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"blkd/internal/env"
)

const seeds = 400

// sectorLetters tells the first byte of each sector of a file, "-" if there is
// no file, and "!" if a sector holds a mixture.
func sectorLetters(t testing.TB, name string) func(*FS) string {
	return func(fs *FS) string {
		data, ok := contents(t, fs, name)
		if !ok {
			return "-"
		}
		out := ""
		for len(data) > 0 {
			s := data[:min(SectorSize, len(data))]
			data = data[len(s):]
			if !bytes.Equal(s, fill(s[0], len(s))) {
				return "!"
			}
			if s[0] == 0 {
				out += "."
			} else {
				out += string(s[:1])
			}
		}
		return out
	}
}

func TestWritesAreLostTornAndReordered(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 1024))
	write(t, f, fill('b', 1024), 0)
	write(t, f, fill('c', 1024), 0)
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")),
		"aa", "ab", "ac", "ba", "bb", "bc", "ca", "cb", "cc")
}

func TestLaterWriteMaySurviveAlone(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 8192))
	write(t, f, fill('b', 512), 0)
	write(t, f, fill('c', 512), 4096)
	g := durable(t, fs, "g", fill('a', 512))
	write(t, g, fill('d', 512), 0)
	got := seen(t, fs, seeds, func(fs *FS) string {
		f, g := sectorLetters(t, "f")(fs), sectorLetters(t, "g")(fs)
		return f[:1] + f[8:9] + g
	})
	wantOutcomes(t, got, "aaa", "aad", "aca", "acd", "baa", "bad", "bca", "bcd")
}

func TestSyncedDataIsKept(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 1024))
	write(t, f, fill('b', 512), 512)
	must(t, f.Sync())
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "ab")
	if fs.Pending() != 0 {
		t.Errorf("%d operations pending", fs.Pending())
	}
}

func TestPartOfASectorIsNeverTorn(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 512))
	write(t, f, fill('b', 100), 0)
	write(t, f, fill('c', 412), 100)
	got := seen(t, fs, seeds, func(fs *FS) string {
		data, _ := contents(t, fs, "f")
		return string([]byte{data[0], data[99], data[100], data[511]})
	})
	wantOutcomes(t, got, "aaaa", "bbaa", "bbcc") // never "aacc"
}

func TestMappedWriteIsTornAnywhere(t *testing.T) {
	torn := map[int]bool{}
	for n := range 20 {
		fs := New()
		f := durable(t, fs, "f", fill('a', 1024))
		must(t, f.Map(1024))
		for range n { // other sequence numbers, other places
			write(t, f, fill('a', 1), 0)
		}
		must(t, f.Sync())
		must(t, f.WritevAt([][]byte{fill('b', 300), fill('b', 0), fill('b', 600)}, 100))
		if fs.Pending() != 1 {
			t.Fatalf("%d operations pending", fs.Pending())
		}
		if got, _ := contents(t, fs, "f"); !bytes.Equal(got, append(append(fill('a', 100), fill('b', 900)...), fill('a', 24)...)) {
			t.Fatal("the process reads something else than it wrote")
		}
		for seed := range uint64(100) {
			got, _ := contents(t, fs.Crash(seed), "f")
			last := bytes.LastIndexByte(got, 'b') + 1
			if last%SectorSize != 0 && last != 1000 {
				torn[last] = true
			}
		}
		must(t, f.Sync())
		if got, _ := contents(t, fs.CrashMode(AllLost, 1), "f"); bytes.Count(got, []byte{'b'}) != 900 {
			t.Fatal("a synced write is not whole")
		}
	}
	if len(torn) < 10 {
		t.Errorf("torn at %v only", torn)
	}
}

func TestKillTearsAMappedWrite(t *testing.T) {
	lengths := map[int]bool{}
	for n := range 20 {
		fs := New()
		f := durable(t, fs, "f", fill('a', 4096))
		must(t, f.Map(4096))
		for range n {
			write(t, f, fill('a', 1), 0)
		}
		fs.FailAfter(1)
		if _, err := f.WriteAt(fill('b', 4096), 0); err != ErrPowerLoss {
			t.Fatal(err)
		}
		fs.Kill()
		got, _ := contents(t, fs, "f")
		cut := bytes.Count(got, []byte{'b'})
		if !bytes.Equal(got, append(fill('b', cut), fill('a', 4096-cut)...)) {
			t.Fatal("the write is not a prefix")
		}
		lengths[cut] = true
	}
	if len(lengths) < 10 {
		t.Errorf("lengths %v", lengths)
	}
}

func TestMapNeedsTheSize(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 4096))
	for _, size := range []int64{0, -1, 4095, 8192} {
		if err := f.Map(size); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("map of %d bytes of 4096: %v", size, err)
		}
	}
	fs.PowerOff()
	if err := f.Map(4096); err != ErrPowerLoss {
		t.Error(err)
	}
}

func TestSizeIsKeptOrLost(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 512))
	write(t, f, fill('b', 512), 512)
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "a", "ab", "a.")
}

func TestTruncateIsKeptOrLost(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 1024))
	must(t, f.Truncate(512))
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "a", "aa")
	must(t, f.Truncate(1536))
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "a", "aa", "a..", "aa.")
	must(t, f.Sync())
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "a..")
}

func TestPunchIsKeptOrLostByBlock(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 3*pageSize))
	must(t, f.PunchHole(0, 2*pageSize))
	got := seen(t, fs, seeds, func(fs *FS) string {
		s := sectorLetters(t, "f")(fs)
		return fmt.Sprintf("%s%s%s %d", s[:1], s[8:9], s[16:17], fs.Used())
	})
	wantOutcomes(t, got, "aaa 12288", ".aa 8192", "a.a 8192", "..a 4096")
}

func TestAllocationIsKeptOrLost(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", nil)
	must(t, f.Allocate(0, 2*pageSize))
	got := seen(t, fs, seeds, func(fs *FS) string {
		data, _ := contents(t, fs, "f")
		return fmt.Sprintf("%d %d", len(data), fs.Used())
	})
	// Space beyond a lost size is given back by the recovery of the file system.
	wantOutcomes(t, got, "0 0", "8192 8192")
}

func TestNamesAreKeptOrLost(t *testing.T) {
	names := func(fs *FS) string {
		list, err := fs.ReadDir("/")
		must(t, err)
		return fmt.Sprint(list)
	}
	fs := New()
	must(t, open(t, fs, "a").Sync())
	wantOutcomes(t, seen(t, fs, seeds, names), "[]", "[a]")
	open(t, fs, "b")
	wantOutcomes(t, seen(t, fs, seeds, names), "[]", "[a]", "[a b]") // in order
	must(t, fs.SyncDir("/"))
	wantOutcomes(t, seen(t, fs, seeds, names), "[a b]")
	must(t, fs.Remove("a"))
	wantOutcomes(t, seen(t, fs, seeds, names), "[a b]", "[b]")
	must(t, fs.SyncDir("/"))
	must(t, fs.Rename("b", "c"))
	wantOutcomes(t, seen(t, fs, seeds, names), "[b]", "[c]")
	must(t, fs.SyncDir("/"))
	wantOutcomes(t, seen(t, fs, seeds, names), "[c]")
}

func TestRenameReplacesAtomically(t *testing.T) {
	fs := New()
	durable(t, fs, "f", fill('o', 512))
	durable(t, fs, "f.new", fill('n', 512))
	must(t, fs.Rename("f.new", "f"))
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "o", "n")

	fs = New()
	durable(t, fs, "f", fill('o', 512))
	f := open(t, fs, "f.new")
	write(t, f, fill('n', 512), 0)
	must(t, fs.Rename("f.new", "f")) // without Sync: the classic mistake
	got := seen(t, fs, seeds, sectorLetters(t, "f"))
	wantOutcomes(t, got, "o", "n", "", ".")
}

func TestRenameBetweenDirectories(t *testing.T) {
	fs := New()
	must(t, fs.MkdirAll("a"))
	must(t, fs.MkdirAll("b"))
	must(t, fs.SyncDir("/"))
	names := func(fs *FS) string {
		a, err := fs.ReadDir("a")
		must(t, err)
		b, err := fs.ReadDir("b")
		must(t, err)
		return fmt.Sprint(a, b)
	}
	open(t, fs, "a/x")
	open(t, fs, "a/f")
	must(t, fs.Rename("a/f", "b/f"))
	open(t, fs, "b/y")
	wantOutcomes(t, seen(t, fs, 2*seeds, names), "[] []", "[x] []", "[f x] []", "[x] [f]", "[x] [f y]")
	must(t, fs.SyncDir("b")) // carries what came before the move in a
	wantOutcomes(t, seen(t, fs, seeds, names), "[x] [f y]")
}

func TestFileInADirectoryThatIsLost(t *testing.T) {
	fs := New()
	must(t, fs.MkdirAll("d/e"))
	must(t, open(t, fs, "d/e/f").Sync())
	must(t, fs.SyncDir("d/e"))
	must(t, fs.SyncDir("d"))
	got := seen(t, fs, seeds, func(fs *FS) string { return dump(t, fs, "") })
	wantOutcomes(t, got, "", "/d/\n/d/e/\n/d/e/f 0 \n")
}

func TestRemovedFileComesBackWhole(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 512))
	must(t, f.Close())
	must(t, fs.Remove("f"))
	if fs.Used() != 0 {
		t.Errorf("%d bytes used after the last file is gone", fs.Used())
	}
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "a", "-")
}

func TestModes(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 2048))
	for i := range int64(4) {
		write(t, f, fill('b', 512), i*512)
	}
	want := map[Mode][]string{
		AllLost:    {"aaaa"},
		AllKept:    {"bbbb"},
		PrefixKept: {"aaaa", "baaa", "bbaa", "bbba", "bbbb"},
		OneLost:    {"abbb", "babb", "bbab", "bbba", "bbbb"},
		OneKept:    {"aaaa", "baaa", "abaa", "aaba", "aaab"},
		RandomFiles: {
			"aaaa", "bbbb",
		},
	}
	for mode := range numModes {
		got := map[string]int{}
		for seed := range uint64(seeds) {
			got[sectorLetters(t, "f")(fs.CrashMode(mode, seed))]++
		}
		if want[mode] != nil {
			t.Run(mode.String(), func(t *testing.T) { wantOutcomes(t, got, want[mode]...) })
		} else if len(got) != 16 {
			t.Errorf("%v: %d outcomes of 16: %v", mode, len(got), got)
		}
	}
	drawn := map[Mode]int{}
	for seed := range uint64(seeds) {
		drawn[ModeOf(seed)]++
	}
	if len(drawn) != int(numModes) {
		t.Errorf("modes drawn: %v", drawn)
	}
}

func TestFailAfterCutsAnyOperation(t *testing.T) {
	workload := func(fs *FS) error {
		if err := fs.MkdirAll("d"); err != nil {
			return err
		}
		f, err := fs.Open("d/f", os.O_RDWR|os.O_CREATE)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(fill('a', 1024), 0)
		return errors.Join(err, f.Sync(), fs.SyncDir("d"), fs.SyncDir("/"), f.Truncate(512),
			f.WritevAt([][]byte{fill('b', 10)}, 0), f.Allocate(0, 8192), f.PunchHole(0, 512),
			fs.Rename("d/f", "d/g"), fs.Remove("d/g"))
	}
	fs := New()
	must(t, workload(fs))
	total := fs.Ops()
	if total != 12 {
		t.Fatalf("%d operations", total)
	}
	for n := uint64(1); n <= total; n++ {
		fs := New()
		fs.FailAfter(n)
		if err := workload(fs); !errors.Is(err, ErrPowerLoss) {
			t.Errorf("cut at %d: %v", n, err)
		}
		if fs.Ops() != n || !fs.Off() {
			t.Errorf("cut at %d: %d operations", n, fs.Ops())
		}
		if _, err := fs.ReadDir("/"); !errors.Is(err, ErrPowerLoss) {
			t.Errorf("cut at %d: ReadDir: %v", n, err)
		}
		if _, err := fs.Open("x", os.O_CREATE); !errors.Is(err, ErrPowerLoss) {
			t.Errorf("cut at %d: Open: %v", n, err)
		}
		if _, err := fs.Lock("x"); !errors.Is(err, ErrPowerLoss) {
			t.Errorf("cut at %d: Lock: %v", n, err)
		}
		must(t, fs.Crash(n).MkdirAll("works"))
	}
}

func TestFailAfterTearsTheWriteAndVoidsTheSync(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 1024))
	fs.FailAfter(1)
	if _, err := f.WriteAt(fill('b', 1024), 0); err != ErrPowerLoss {
		t.Fatal(err)
	}
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "aa", "ab", "ba", "bb")

	fs = New()
	f = durable(t, fs, "f", fill('a', 512))
	write(t, f, fill('b', 512), 0)
	fs.FailAfter(1)
	if err := f.Sync(); err != ErrPowerLoss {
		t.Fatal(err)
	}
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "a", "b")
}

func TestKillKeepsWritesButNotPromises(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 512))
	write(t, f, fill('b', 512), 0)
	fs.FailAfter(1)
	f.WriteAt(fill('c', 512), 512)
	fs.Kill()
	if got := sectorLetters(t, "f")(fs); got != "bc" {
		t.Errorf("after Kill: %s", got)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrKilled) {
		t.Errorf("read from the file of a dead process: %v", err)
	}
	if err := f.Close(); !errors.Is(err, ErrKilled) {
		t.Errorf("close: %v", err)
	}
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "a", "b", "ac", "bc", "a.", "b.")
	must(t, open(t, fs, "f").Sync())
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "bc")
}

func TestFailedSyncDoomsWhatWasUnsynced(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 1024))
	write(t, f, fill('b', 1024), 0)
	fs.Inject(Rule{Ops: OpSync, Times: 1})
	if err := f.Sync(); err == nil {
		t.Fatal("the sync succeeded")
	}
	write(t, f, fill('c', 512), 512)
	must(t, f.Sync())
	if got := sectorLetters(t, "f")(fs); got != "bc" {
		t.Errorf("the process reads %s", got)
	}
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "ac", "bc")
	write(t, f, fill('d', 512), 0)
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "ac", "bc", "dc")
	must(t, f.Sync())
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "dc")
}

func TestSyncThatDoesNotStartDoomsNothing(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 512))
	g := open(t, fs, "f")
	must(t, g.Close())
	write(t, f, fill('b', 512), 0)
	if err := g.Sync(); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	must(t, f.Sync())
	wantOutcomes(t, seen(t, fs, seeds, sectorLetters(t, "f")), "b")
}

// randomStep does one random operation on one of two files.
func randomStep(t testing.TB, r *rand.Rand, files []env.File, step int) (file int, synced bool) {
	t.Helper()
	const limit = 40 << 10
	i := r.IntN(len(files))
	f := files[i]
	off, n := r.Int64N(limit), 1+r.Int64N(6000)
	if r.IntN(2) == 0 {
		off, n = off&^4095, (n+4095)&^4095
	}
	switch r.IntN(10) {
	case 0:
		must(t, f.Truncate(off))
	case 1:
		must(t, f.PunchHole(off, n))
	case 2:
		must(t, f.Allocate(off, n))
	case 3:
		must(t, f.Sync())
		return i, true
	case 4, 5:
		must(t, f.WritevAt([][]byte{fill(byte(step), int(n/2)), nil, fill(byte(step+1), int(n-n/2))}, off))
	default:
		write(t, f, fill(byte(step), int(n)), off)
	}
	return i, false
}

// TestEveryCrashHoldsOnlyVersions compares random runs with an oracle that keeps
// every version of every file since its last Sync.
func TestEveryCrashHoldsOnlyVersions(t *testing.T) {
	for run := range uint64(60) {
		r := rand.New(rand.NewPCG(run, 1))
		fs := New()
		files := []env.File{durable(t, fs, "0", nil), durable(t, fs, "1", nil)}
		versions := [2][][]byte{{nil}, {nil}}
		for step := range 40 {
			i, synced := randomStep(t, r, files, step)
			now, _ := contents(t, fs, fmt.Sprint(i))
			if synced {
				versions[i] = nil
			}
			versions[i] = append(versions[i], now)
			seed := r.Uint64()
			crashed := fs.Crash(seed)
			for i := range files {
				checkVersions(t, crashed, fmt.Sprint(i), versions[i], seed)
			}
			if crashed.Pending() != 0 {
				t.Fatal("a crashed file system has operations pending")
			}
		}
	}
}

// checkVersions fails unless each sector of a file is one of its versions.
func checkVersions(t *testing.T, fs *FS, name string, versions [][]byte, seed uint64) {
	t.Helper()
	got, ok := contents(t, fs, name)
	if !ok {
		t.Fatalf("seed %d: file %s is gone", seed, name)
	}
	smallest, largest := len(versions[0]), 0
	for _, v := range versions {
		smallest, largest = min(smallest, len(v)), max(largest, len(v))
	}
	if len(got) < smallest || len(got) > largest {
		t.Fatalf("seed %d (%v): file %s has %d bytes, not %d to %d", seed, ModeOf(seed), name, len(got), smallest, largest)
	}
	for at := 0; at < len(got); at += SectorSize {
		sector := got[at:min(at+SectorSize, len(got))]
		found := false
		for _, v := range versions {
			want := make([]byte, len(sector))
			if at < len(v) {
				copy(want, v[at:])
			}
			found = found || bytes.Equal(want, sector)
		}
		if !found {
			t.Fatalf("seed %d (%v): file %s holds no version at %d", seed, ModeOf(seed), name, at)
		}
	}
}

func TestCrashIsDeterministicAndPure(t *testing.T) {
	build := func() *FS {
		fs := New()
		r := rand.New(rand.NewPCG(7, 7))
		must(t, fs.MkdirAll("d"))
		must(t, fs.SyncDir("/"))
		files := []env.File{open(t, fs, "a"), open(t, fs, "d/b")}
		for step := range 60 {
			randomStep(t, r, files, step)
		}
		must(t, fs.Rename("a", "d/c"))
		return fs
	}
	one, two := build(), build()
	before := dump(t, one, "")
	distinct := map[string]bool{}
	for seed := range uint64(100) {
		a, b := one.Crash(seed), two.Crash(seed)
		got := dump(t, a, "")
		if got != dump(t, b, "") || a.Used() != b.Used() {
			t.Fatalf("seed %d: two crashes of the same run differ", seed)
		}
		distinct[got] = true
		// Use what the crash left: it must not reach the source.
		f := open(t, a, "d/b")
		randomStep(t, rand.New(rand.NewPCG(seed, 0)), []env.File{f}, 99)
		if again := dump(t, one.Crash(seed), ""); again != got {
			t.Fatalf("seed %d: a second crash differs", seed)
		}
	}
	if len(distinct) < 30 {
		t.Errorf("100 seeds gave %d states", len(distinct))
	}
	if dump(t, one, "") != before {
		t.Error("the source has changed")
	}
}
