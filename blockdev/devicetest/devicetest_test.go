package devicetest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"blkd/blockdev"
)

// broken wraps a good device and breaks one promise.
type broken struct {
	blockdev.Device
	submit  func(d blockdev.Device, batch []*blockdev.Request)
	extents func(e blockdev.Extent) blockdev.Extent
}

func (b *broken) Submit(batch []*blockdev.Request) {
	if b.submit == nil {
		b.Device.Submit(batch)
		return
	}
	b.submit(b.Device, batch)
}

func (b *broken) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	if b.extents == nil {
		return b.Device.Extents(off, n, emit)
	}
	return b.Device.Extents(off, n, func(e blockdev.Extent) bool { return emit(b.extents(e)) })
}

// ruled is a memory device with faults.
func ruled(rules ...blockdev.FaultRule) blockdev.Device {
	f := blockdev.NewFault(blockdev.NewMemory(32<<20), 1)
	for _, r := range rules {
		if _, err := f.AddRule(r); err != nil {
			panic(err)
		}
	}
	return f
}

func breaking(submit func(d blockdev.Device, batch []*blockdev.Request)) blockdev.Device {
	return &broken{Device: blockdev.NewMemory(32 << 20), submit: submit}
}

// each applies f to every request before the device sees it.
func each(f func(r *blockdev.Request)) func(blockdev.Device, []*blockdev.Request) {
	return func(d blockdev.Device, batch []*blockdev.Request) {
		for _, r := range batch {
			f(r)
		}
		d.Submit(batch)
	}
}

// window is how long a defect that needs concurrency stays open. The tests that
// find it make hundreds of overlapping requests.
const window = 50 * time.Microsecond

// brokenDevices maps a defect to a test that must find it.
var brokenDevices = []struct {
	name, finds string
	open        func() blockdev.Device
}{
	{"drops writes now and then", "Model", func() blockdev.Device {
		return ruled(blockdev.FaultRule{Action: blockdev.FaultDrop, Ops: []blockdev.Op{blockdev.OpWrite}, Every: 500})
	}},
	{"drops trims", "Zeroing", func() blockdev.Device {
		return ruled(blockdev.FaultRule{Action: blockdev.FaultDrop, Ops: []blockdev.Op{blockdev.OpTrim}, Skip: 3})
	}},
	{"flips a bit", "Transfers", func() blockdev.Device {
		return ruled(blockdev.FaultRule{Action: blockdev.FaultBitRot, Off: 1 << 20, Len: 512})
	}},
	{"drops writes at the end", "Unaligned", func() blockdev.Device {
		return ruled(blockdev.FaultRule{Action: blockdev.FaultDrop, Ops: []blockdev.Op{blockdev.OpWrite}, Off: 32<<20 - 1, Len: 1})
	}},
	{"fails flushes", "Durability", func() blockdev.Device {
		return ruled(blockdev.FaultRule{Action: blockdev.FaultError, Ops: []blockdev.Op{blockdev.OpFlush}})
	}},
	{"serves a batch backwards", "BatchOrder", func() blockdev.Device {
		return breaking(func(d blockdev.Device, batch []*blockdev.Request) {
			back := slices.Clone(batch)
			slices.Reverse(back)
			d.Submit(back)
		})
	}},
	{"forgets the last request of a large batch", "BatchOfGoodAndBad", func() blockdev.Device {
		return breaking(func(d blockdev.Device, batch []*blockdev.Request) {
			for i, r := range batch {
				if i == 3 {
					r.Finish(nil)
				} else {
					d.Submit(batch[i : i+1])
				}
			}
		})
	}},
	{"answers flushes twice", "DoneOnce", func() blockdev.Device {
		return breaking(func(d blockdev.Device, batch []*blockdev.Request) {
			d.Submit(batch)
			for _, r := range batch {
				if r.Op == blockdev.OpFlush {
					r.Done(r)
				}
			}
		})
	}},
	{"clips requests at the end", "OutOfRange", func() blockdev.Device {
		return breaking(each(func(r *blockdev.Request) {
			if r.Op == blockdev.OpTrim && r.Off >= 0 && r.Off < 32<<20 && r.Len > 32<<20-r.Off {
				r.Len = 32<<20 - r.Off
			}
		}))
	}},
	{"does not fill holes on read", "Model", func() blockdev.Device {
		d := blockdev.NewMemory(32 << 20)
		return &broken{Device: d, submit: func(d blockdev.Device, batch []*blockdev.Request) {
			for _, r := range batch {
				hole := false
				if r.Op == blockdev.OpRead && r.Len > 0 {
					d.Extents(r.Off, r.Len, func(e blockdev.Extent) bool {
						hole = e.Hole && e.Len == r.Len
						return false
					})
				}
				if hole {
					r.Finish(nil)
				} else {
					d.Submit([]*blockdev.Request{r})
				}
			}
		}}
	}},
	{"punches where space must stay", "NoHole", func() blockdev.Device {
		return breaking(each(func(r *blockdev.Request) { r.Flags &^= blockdev.NoHole }))
	}},
	{"rounds zeroes to blocks", "ZeroingOdd", func() blockdev.Device {
		return breaking(each(func(r *blockdev.Request) {
			if r.Op == blockdev.OpWriteZeroes && r.Off >= 0 && r.Len > 0 && r.Off+r.Len < 31<<20 {
				r.Len = (r.Len + 511) &^ 511
			}
		}))
	}},
	{"calls data a hole of zeros", "Extents", func() blockdev.Device {
		return &broken{Device: blockdev.NewMemory(32 << 20), extents: func(e blockdev.Extent) blockdev.Extent {
			e.Zero = true
			return e
		}}
	}},
	{"leaves gaps between extents", "Extents", func() blockdev.Device {
		return &broken{Device: blockdev.NewMemory(32 << 20), extents: func(e blockdev.Extent) blockdev.Extent {
			e.Len = max(1, e.Len-1)
			return e
		}}
	}},
	{"tears sectors under concurrency", "Overlapping", func() blockdev.Device {
		return breaking(func(d blockdev.Device, batch []*blockdev.Request) {
			for _, r := range batch {
				if r.Op != blockdev.OpWrite || r.Len < 512 {
					d.Submit([]*blockdev.Request{r})
					continue
				}
				half := r.Len - 256
				err := blockdev.WriteAt(d, r.Data[:half], r.Off, 0)
				time.Sleep(window)
				if err == nil {
					err = blockdev.WriteAt(d, r.Data[half:], r.Off+half, 0)
				}
				r.Finish(err)
			}
		})
	}},
	{"reads, modifies and writes without a lock", "SubSector", func() blockdev.Device {
		return breaking(func(d blockdev.Device, batch []*blockdev.Request) {
			for _, r := range batch {
				if r.Op != blockdev.OpWrite || r.Off+r.Len > 31<<20 || r.Off < 0 {
					d.Submit([]*blockdev.Request{r})
					continue
				}
				lo := r.Off &^ 511
				p := make([]byte, (r.Off+r.Len+511)&^511-lo)
				err := blockdev.ReadAt(d, p, lo)
				copy(p[r.Off-lo:], r.Data)
				time.Sleep(window)
				if err == nil {
					err = blockdev.WriteAt(d, p, lo, 0)
				}
				r.Finish(err)
			}
		})
	}},
	{"serves after Close", "Closed", func() blockdev.Device { return &unclosable{blockdev.NewMemory(32 << 20)} }},
}

type unclosable struct{ blockdev.Device }

func (unclosable) Close() error { return nil }

const brokenEnv = "DEVICETEST_BROKEN"

// TestBroken runs the suite on a broken device in a process of its own.
func TestBroken(t *testing.T) {
	name := os.Getenv(brokenEnv)
	if name == "" {
		t.Skip("only run by TestSuiteFindsDefects")
	}
	for _, b := range brokenDevices {
		if b.name == name {
			Run(t, func(*testing.T) blockdev.Device { return b.open() })
			return
		}
	}
	t.Skipf("no such device: %s", name)
}

// TestSuiteFindsDefects shows that the suite can fail: each defect is found by
// the test that is there for it.
func TestSuiteFindsDefects(t *testing.T) {
	for _, b := range brokenDevices {
		t.Run(b.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.v", "-test.run=^TestBroken$/^"+b.finds+"$")
			cmd.Env = append(os.Environ(), brokenEnv+"="+b.name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestBroken/"+b.finds) {
				t.Errorf("%s does not find it (%v):\n%s", b.finds, err, out)
			}
		})
	}
}

func TestMemoryConforms(t *testing.T) {
	Run(t, func(*testing.T) blockdev.Device { return blockdev.NewMemory(MinSize) })
}

// readOnly refuses what a read-only device must.
type readOnly struct{ blockdev.Device }

func (readOnly) ReadOnly() bool { return true }

func (d readOnly) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		if err := r.Check(d.Size(), true); err != nil {
			r.Finish(err)
		} else {
			d.Device.Submit([]*blockdev.Request{r})
		}
	}
}

func TestReadOnly(t *testing.T) {
	RunReadOnly(t, func(*testing.T) blockdev.Device { return readOnly{blockdev.NewMemory(1 << 20)} })
}
