package nbd

import (
	"bytes"
	"context"
	"errors"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"blkd/blockdev"
)

func dialTest(t testing.TB, uri string, opts DialOptions) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, uri, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// modes are the ways in which replies can be negotiated.
var modes = map[string]DialOptions{
	"simple":     {Simple: true},
	"structured": {NoExtended: true},
	"extended":   {},
	"multi":      {Connections: 4, MaxRequests: 8},
}

// exercise compares a device with a model under random concurrent requests, each
// worker in a region of its own.
func exercise(t *testing.T, d blockdev.Device, seed int64) {
	t.Helper()
	const workers, region, rounds = 4, 3 << 20, 60
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewSource(seed + int64(w)))
			base := int64(w) * region
			model := make([]byte, region)
			if err := blockdev.WriteZeroes(d, base, region, 0); err != nil {
				t.Error(err)
				return
			}
			for i := range rounds {
				n := rng.Intn(1 << uint(rng.Intn(21)))
				off := rng.Intn(region - n)
				var err error
				switch rng.Intn(6) {
				case 0, 1:
					rng.Read(model[off : off+n])
					err = blockdev.WriteAt(d, model[off:off+n], base+int64(off), blockdev.Flags(rng.Intn(2)))
				case 2:
					clear(model[off : off+n])
					err = blockdev.WriteZeroes(d, base+int64(off), int64(n), blockdev.Flags(rng.Intn(4)))
				case 3:
					clear(model[off : off+n])
					err = blockdev.Trim(d, base+int64(off), int64(n), 0)
				default:
					got := make([]byte, n)
					err = blockdev.ReadAt(d, got, base+int64(off))
					if err == nil && !bytes.Equal(got, model[off:off+n]) {
						t.Errorf("worker %d round %d: read of %d bytes at %d differs", w, i, n, off)
						return
					}
				}
				if err != nil {
					t.Errorf("worker %d round %d: %v", w, i, err)
					return
				}
			}
			if err := blockdev.Flush(d); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

func TestClientServer(t *testing.T) {
	s := startServer(t, Options{MaxRequests: 16}, blockdev.NewMemory(16<<20))
	for name, opts := range modes {
		t.Run(name, func(t *testing.T) {
			c := dialTest(t, s.uri("disk"), opts)
			if c.Size() != 16<<20 || c.ReadOnly() {
				t.Fatalf("size %d, read-only %v", c.Size(), c.ReadOnly())
			}
			if name == "multi" && c.Connections() != 4 {
				t.Errorf("%d connections, want 4", c.Connections())
			}
			exercise(t, c, 1)
		})
	}
}

func TestClientErrors(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	s.SetExport(Export{Name: "ro", Device: blockdev.NewMemory(1 << 20), ReadOnly: true})
	c := dialTest(t, s.uri("disk"), DialOptions{})
	buf := make([]byte, 4096)
	if err := blockdev.ReadAt(c, buf, 1<<20-1); !errors.Is(err, blockdev.ErrRange) {
		t.Errorf("read beyond the end: %v", err)
	}
	ro := dialTest(t, s.uri("ro"), DialOptions{})
	if err := blockdev.WriteAt(ro, buf, 0, 0); !errors.Is(err, blockdev.ErrReadOnly) {
		t.Errorf("write to a read-only export: %v", err)
	}
	if _, err := Dial(context.Background(), s.uri("nope"), DialOptions{}); err == nil {
		t.Error("an unknown export can be dialled")
	} else {
		var refusal *OptionError
		if !errors.As(err, &refusal) || refusal.Reply != repErrUnknown {
			t.Errorf("unknown export: %v", err)
		}
	}
	s.dev.Close()
	if err := blockdev.ReadAt(c, buf, 0); !errors.Is(err, blockdev.ErrClosed) {
		t.Errorf("read from a closed device: %v", err)
	}
	list, err := List(context.Background(), s.uri(""), DialOptions{})
	if err != nil || len(list) != 2 || list[0] != (ListedExport{"disk", "a test disk"}) || list[1].Name != "ro" {
		t.Errorf("List: %v, %v", list, err)
	}
	if !s.RemoveExport("disk") || s.RemoveExport("disk") {
		t.Error("RemoveExport must tell whether there was an export")
	}
	if err := blockdev.ReadAt(c, buf, 0); !errors.Is(err, ErrConnectionLost) {
		t.Errorf("read after the export was removed: %v", err)
	}
	c.Close()
	if err := blockdev.ReadAt(c, buf, 0); !errors.Is(err, blockdev.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

// others starts a server of someone else and returns its URI.
func others(t *testing.T, name, pkg string, args func(socket string) []string) string {
	t.Helper()
	path := tool(t, name, pkg)
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(path, args(socket)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	for range 500 {
		// The file is there before anyone listens.
		if probe, err := net.Dial("unix", socket); err == nil {
			probe.Close()
			return "nbd+unix:///?socket=" + socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s makes no socket", name)
	return ""
}

func TestClientNbdkit(t *testing.T) {
	uri := others(t, "nbdkit", "nbdkit", func(s string) []string { return []string{"-f", "-U", s, "memory", "16M"} })
	for name, opts := range modes {
		t.Run(name, func(t *testing.T) { exercise(t, dialTest(t, uri, opts), 2) })
	}
	extents(t, dialTest(t, uri, DialOptions{}))
}

func TestClientQemuNbd(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	uri := others(t, "qemu-nbd", "qemu-utils", func(s string) []string {
		return []string{"-t", "-e", "8", "-f", "raw", "--discard=unmap", "-k", s, image}
	})
	for name, opts := range modes {
		t.Run(name, func(t *testing.T) { exercise(t, dialTest(t, uri, opts), 3) })
	}
	extents(t, dialTest(t, uri, DialOptions{}))
}

// extents checks that a hole, data and a hole are told apart and covered exactly.
func extents(t *testing.T, c *Client) {
	t.Helper()
	if err := blockdev.Trim(c, 0, c.Size(), 0); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(c, bytes.Repeat([]byte{1}, 1<<20), 4<<20, 0); err != nil {
		t.Fatal(err)
	}
	next := int64(1 << 20)
	data := int64(0)
	err := c.Extents(next, 8<<20, func(x blockdev.Extent) bool {
		if x.Off != next || x.Len <= 0 {
			t.Errorf("extent %+v, expected one at %d", x, next)
		}
		next = x.Off + x.Len
		if !x.Zero {
			data += x.Len
		}
		return true
	})
	if err != nil || next != 9<<20 || data != 1<<20 {
		t.Errorf("extents end at %d with %d bytes of data: %v", next, data, err)
	}
}

// TestConnectionLost: when the server goes away, what is in flight fails, what waits
// for a free slot fails, and so does what comes later.
func TestConnectionLost(t *testing.T) {
	dev := newSlow(1 << 20)
	s := startServer(t, Options{}, dev)
	c := dialTest(t, s.uri("disk"), DialOptions{MaxRequests: 4})
	results := make(chan error, 10)
	for i := range 10 {
		go func() { results <- blockdev.WriteAt(c, make([]byte, 512), int64(i)*512, 0) }()
	}
	eventually(t, "4 requests arrive", func() bool { return len(dev.held) == 4 })
	s.RemoveExport("disk")
	for range 10 {
		if err := <-results; !errors.Is(err, ErrConnectionLost) {
			t.Errorf("write: %v", err)
		}
	}
	if err := blockdev.Flush(c); !errors.Is(err, ErrConnectionLost) {
		t.Errorf("flush afterwards: %v", err)
	}
	dev.letGo(4)
}

// TestLongRanges: ranges beyond 32 bits take several commands, or one with extended
// headers.
func TestLongRanges(t *testing.T) {
	const size = 9 << 30
	dev := blockdev.NewMemory(size)
	s := startServer(t, Options{}, dev)
	for name, want := range map[string]uint64{"simple": 5, "structured": 5, "extended": 1} {
		before := s.Stats().Exports[0].Ops[cmdWriteZeroes].Requests
		c := dialTest(t, s.uri("disk"), modes[name])
		if err := blockdev.WriteAt(c, []byte("end"), size-3, 0); err != nil {
			t.Fatal(err)
		}
		if err := blockdev.WriteZeroes(c, 0, size, blockdev.FUA); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 3)
		if err := blockdev.ReadAt(c, got, size-3); err != nil || string(got) != "\x00\x00\x00" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if n := s.Stats().Exports[0].Ops[cmdWriteZeroes].Requests - before; n != want {
			t.Errorf("%s: %d commands, want %d", name, n, want)
		}
		covered := int64(0)
		if err := c.Extents(0, size, func(x blockdev.Extent) bool { covered += x.Len; return true }); err != nil || covered != size {
			t.Errorf("%s: extents cover %d bytes, %v", name, covered, err)
		}
	}
}
