package nbd

import (
	"testing"

	"blkd/blockdev"
	"blkd/blockdev/devicetest"
)

// asyncDevice finishes every request on another goroutine, out of the order of the
// batch but for mutations, as a replicated volume does.
type asyncDevice struct {
	blockdev.Device
	work chan func()
}

func newAsync(t testing.TB, d blockdev.Device) *asyncDevice {
	a := &asyncDevice{Device: d, work: make(chan func(), 4096)}
	go func() {
		for f := range a.work {
			f()
		}
	}()
	t.Cleanup(func() { close(a.work) })
	return a
}

func (a *asyncDevice) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		a.work <- func() { a.Device.Submit([]*blockdev.Request{r}) }
	}
}

func TestConformance(t *testing.T) {
	for name, opts := range modes {
		if opts.Simple { // no block status, and the suite wants several extents
			continue
		}
		t.Run(name, func(t *testing.T) {
			devicetest.Run(t, func(t *testing.T) blockdev.Device {
				s := startServer(t, Options{}, blockdev.NewMemory(48<<20))
				return dialTest(t, s.uri("disk"), opts)
			})
		})
	}
	t.Run("async", func(t *testing.T) {
		devicetest.Run(t, func(t *testing.T) blockdev.Device {
			s := startServer(t, Options{MaxRequests: 7}, newAsync(t, blockdev.NewMemory(48<<20)))
			return dialTest(t, s.uri("disk"), DialOptions{Connections: 2})
		})
	})
	devicetest.RunReadOnly(t, func(t *testing.T) blockdev.Device {
		s := startServer(t, Options{}, blockdev.NewMemory(48<<20))
		if err := s.SetExport(Export{Name: "ro", Device: s.dev, ReadOnly: true}); err != nil {
			t.Fatal(err)
		}
		return dialTest(t, s.uri("ro"), DialOptions{})
	})
}
