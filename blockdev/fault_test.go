package blockdev_test

import (
	"bytes"
	"errors"
	"math/bits"
	"sync"
	"testing"
	"time"

	. "blkd/blockdev"
	"blkd/blockdev/devicetest"
)

func TestFaultWithoutRules(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) Device {
		f := NewFault(NewMemory(16<<20), 1)
		t.Cleanup(func() { f.Close() })
		return f
	})
}

// A device that delays and answers out of order, but does no harm, conforms too.
func TestFaultWithDelays(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) Device {
		f := NewFault(NewMemory(16<<20), 1)
		t.Cleanup(func() { f.Close() })
		rule(t, f, FaultRule{Action: FaultDelay, Delay: time.Microsecond, Prob: 0.05})
		rule(t, f, FaultRule{Action: FaultDelay, Delay: time.Millisecond, Every: 97})
		return f
	})
}

func newFault(t *testing.T) *Fault {
	f := NewFault(NewMemory(1<<20), 7)
	t.Cleanup(func() { f.Close() })
	if err := WriteAt(f, fill('a', 1<<20), 0, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func rule(t *testing.T, f *Fault, r FaultRule) int {
	t.Helper()
	id, err := f.AddRule(r)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func contents(t *testing.T, d Device) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	if err := ReadAt(d, p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFaultErrorByOpAndRange(t *testing.T) {
	f := newFault(t)
	id := rule(t, f, FaultRule{Action: FaultError, Ops: []Op{OpWrite}, Off: 4096, Len: 4096, Err: ErrNoSpace})
	for _, c := range []struct {
		off, n int64
		want   error
	}{{0, 4096, nil}, {8192, 4096, nil}, {0, 4097, ErrNoSpace}, {8191, 1, ErrNoSpace}, {0, 1 << 20, ErrNoSpace}} {
		if err := WriteAt(f, fill('b', int(c.n)), c.off, 0); !errors.Is(err, c.want) {
			t.Errorf("write of %d bytes at %d: %v, want %v", c.n, c.off, err, c.want)
		}
	}
	if got := contents(t, f); got[4096] != 'a' || got[0] != 'b' {
		t.Error("a failed write was done, or a good one was not")
	}
	if n := f.Hits(id); n != 3 {
		t.Errorf("%d hits, want 3", n)
	}
	if n := f.RemoveRule(id); n != 3 {
		t.Errorf("%d hits at the end, want 3", n)
	}
	if err := WriteAt(f, fill('c', 1), 4096, 0); err != nil {
		t.Errorf("without the rule: %v", err)
	}
}

func TestFaultConditions(t *testing.T) {
	hits := func(r FaultRule, n int) (out []int) {
		f := newFault(t)
		r.Action = FaultError
		rule(t, f, r)
		for i := range n {
			if err := Flush(f); err != nil {
				out = append(out, i)
			}
		}
		return out
	}
	equal := func(a, b []int) bool {
		if len(a) != len(b) {
			return false
		}
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return true
	}
	for _, c := range []struct {
		name string
		rule FaultRule
		want []int
	}{
		{"always", FaultRule{}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{"once", FaultRule{Times: 1}, []int{0}},
		{"third and later", FaultRule{Skip: 2}, []int{2, 3, 4, 5, 6, 7}},
		{"every third", FaultRule{Every: 3}, []int{2, 5}},
		{"every third after one, once", FaultRule{Skip: 1, Every: 3, Times: 1}, []int{3}},
		{"another range", FaultRule{Ops: []Op{OpWrite}}, nil},
	} {
		if got := hits(c.rule, 8); !equal(got, c.want) {
			t.Errorf("%s: hit %v, want %v", c.name, got, c.want)
		}
	}
	some := hits(FaultRule{Prob: 0.25}, 1000)
	if len(some) < 150 || len(some) > 350 {
		t.Errorf("probability 0.25 hit %d of 1000", len(some))
	}
	if again := hits(FaultRule{Prob: 0.25}, 1000); !equal(some, again) {
		t.Error("the same seed hit other requests")
	}
}

func TestFaultTorn(t *testing.T) {
	f := newFault(t)
	rule(t, f, FaultRule{Action: FaultTorn, Ops: []Op{OpWrite}, Sectors: 2, Times: 1})
	rule(t, f, FaultRule{Action: FaultTorn, Ops: []Op{OpTrim}, Sectors: 1})
	rule(t, f, FaultRule{Action: FaultTorn, Ops: []Op{OpFlush}, Sectors: 1})
	if err := WriteAt(f, fill('b', 4096), 100, 0); !errors.Is(err, ErrIO) {
		t.Errorf("torn write: %v", err)
	}
	if err := Trim(f, 2048, 2048, 0); !errors.Is(err, ErrIO) {
		t.Errorf("torn trim: %v", err)
	}
	if err := Flush(f); !errors.Is(err, ErrIO) {
		t.Errorf("torn flush: %v", err)
	}
	want := fill('a', 4096)
	copy(want[100:1024], fill('b', 924))
	clear(want[2048:2560])
	if got := contents(t, f)[:4096]; !bytes.Equal(got, want) {
		t.Error("not the first sectors, or not only they, were served")
	}
}

func TestFaultTornSomewhere(t *testing.T) {
	f := newFault(t)
	rule(t, f, FaultRule{Action: FaultTorn, Ops: []Op{OpWrite}, Sectors: -1})
	lengths := map[int]bool{}
	for range 200 {
		if err := WriteAt(f, fill('b', 2048), 0, 0); err == nil {
			t.Fatal("the write succeeded")
		}
		n := bytes.Count(contents(t, f)[:2048], []byte{'b'})
		if n%512 != 0 {
			t.Fatalf("%d bytes were written", n)
		}
		lengths[n] = true
		if err := WriteZeroes(f, 0, 2048, 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(lengths) != 5 {
		t.Errorf("lengths of torn writes: %v", lengths)
	}
}

func TestFaultHangsUntilClose(t *testing.T) {
	f := newFault(t)
	rule(t, f, FaultRule{Action: FaultTorn, Ops: []Op{OpWrite, OpFlush}, Sectors: 1, Hang: true})
	rule(t, f, FaultRule{Action: FaultDelay, Ops: []Op{OpTrim}, Delay: time.Hour})
	var done sync.WaitGroup
	done.Add(3)
	finish := func(*Request) { done.Done() }
	w := &Request{Op: OpWrite, Len: 1024, Data: fill('b', 1024), Done: finish}
	fl := &Request{Op: OpFlush, Done: finish}
	tr := &Request{Op: OpTrim, Off: 4096, Len: 4096, Done: finish}
	f.Submit([]*Request{w, fl, tr})
	if got := contents(t, f); got[511] != 'b' || got[512] != 'a' || got[4096] != 'a' {
		t.Errorf("hanging write: %q %q, delayed trim: %q", got[511], got[512], got[4096])
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	for _, r := range []*Request{w, fl, tr} {
		if !errors.Is(r.Err, ErrClosed) {
			t.Errorf("%v: %v, want %v", r.Op, r.Err, ErrClosed)
		}
	}
}

func TestFaultDelayKeepsTheOrderOfABatch(t *testing.T) {
	f := newFault(t)
	rule(t, f, FaultRule{Action: FaultDelay, Ops: []Op{OpWrite}, Delay: time.Millisecond, Times: 1})
	var done sync.WaitGroup
	done.Add(3)
	finish := func(*Request) { done.Done() }
	f.Submit([]*Request{
		{Op: OpWrite, Len: 8192, Data: fill('b', 8192), Done: finish},
		{Op: OpWrite, Len: 4096, Data: fill('c', 4096), Done: finish},
		{Op: OpTrim, Len: 100, Done: finish},
	})
	done.Wait()
	if got := contents(t, f); got[0] != 0 || got[100] != 'c' || got[4096] != 'b' {
		t.Errorf("%q %q %q", got[0], got[100], got[4096])
	}
}

func TestFaultBitRot(t *testing.T) {
	f := newFault(t)
	rule(t, f, FaultRule{Action: FaultBitRot, Off: 5000, Len: 10, Bits: 3, Times: 2})
	if got := contents(t, f)[:5000]; !bytes.Equal(got, fill('a', 5000)) {
		t.Error("rot outside its range")
	}
	p := make([]byte, 4096)
	if err := ReadAt(f, p, 4096); err != nil {
		t.Fatal(err)
	}
	flipped := 0
	for i, b := range p {
		n := bits.OnesCount8(b ^ 'a')
		flipped += n
		if n > 0 && (i < 5000-4096 || i >= 5010-4096) {
			t.Errorf("rot at %d", 4096+i)
		}
	}
	if flipped != 3 && flipped != 1 { // the same bit twice is no change
		t.Errorf("%d bits flipped, want 3", flipped)
	}
	if !bytes.Equal(contents(t, f), fill('a', 1<<20)) {
		t.Error("rot after the rule was spent")
	}
}

func TestFaultDrop(t *testing.T) {
	f := newFault(t)
	rule(t, f, FaultRule{Action: FaultDrop, Times: 1})
	for _, c := range []byte{'b', 'c'} {
		if err := WriteAt(f, fill(c, 512), int64(c)*512, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := contents(t, f); got['b'*512] != 'a' || got['c'*512] != 'c' {
		t.Error("the first write was done, or the second was not")
	}
}

func TestFaultRejectsBadRules(t *testing.T) {
	f := newFault(t)
	for _, r := range []FaultRule{
		{Action: numActions}, {Action: FaultError, Prob: 1.5}, {Action: FaultError, Prob: -1}, {Action: FaultError, Off: -1},
		{Action: FaultError, Len: -1}, {Action: FaultError, Skip: -1}, {Action: FaultDelay}, {Action: FaultError, Ops: []Op{99}},
	} {
		if _, err := f.AddRule(r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

const numActions = FaultDrop + 1

func TestFaultRulesChangeWhileRequestsRun(t *testing.T) {
	f := newFault(t)
	stop := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				id, _ := f.AddRule(FaultRule{Action: FaultError, Every: 2})
				f.Hits(id)
				f.RemoveRule(id)
			}
		}
	})
	for i := range int64(2000) {
		err := WriteAt(f, fill('b', 512), i%2048*512, 0)
		if err != nil && !errors.Is(err, ErrIO) {
			t.Fatal(err)
		}
	}
	close(stop)
	wait.Wait()
	if err := Flush(f); err != nil {
		t.Errorf("without rules: %v", err)
	}
}
