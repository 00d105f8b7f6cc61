package attach

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"blkd/blockdev"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// cluster tells an agent where the volume is.
type cluster struct {
	number uint64
	moves  chan *metapb.Volume
	at     map[string]string // the socket of each primary
}

func (c *cluster) Attach(context.Context, bool, bool) (*metapb.Volume, error) {
	c.number++
	return &metapb.Volume{Attachment: &metapb.Attachment{Number: c.number}}, nil
}

func (c *cluster) Follow(ctx context.Context, f func(*metapb.Volume, []string)) {
	for {
		select {
		case r := <-c.moves:
			f(r, []string{c.at[r.Primary]})
		case <-ctx.Done():
			return
		}
	}
}

// TestFuse attaches a volume as a file, whose primary hangs and is replaced.
func TestFuse(t *testing.T) {
	if _, err := exec.LookPath("nbdfuse"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root, and nbdfuse of the package libnbd-bin")
	}
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skip(err)
	} else {
		f.Close()
	}
	const volume, size = "attach-test", 1 << 20
	mem := blockdev.NewMemory(size)
	hangs := &silent{mem, make(chan struct{}, 16)}
	c := &cluster{moves: make(chan *metapb.Volume, 1), at: map[string]string{
		"n1": newPrimary(t, volume, hangs).socket, "n2": newPrimary(t, volume, mem).socket,
	}}
	record := func(generation uint64, primary string) *metapb.Volume {
		return &metapb.Volume{Name: volume, Id: 1, Number: generation, Generation: generation, Primary: primary, SizeBytes: size, Attachment: &metapb.Attachment{}}
	}
	c.moves <- record(1, "n1")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- RunFuse(ctx, Config{Volume: volume, Holder: "here", Dir: t.TempDir(), Cluster: c, Log: slog.New(slog.DiscardHandler), Waits: func(error) {},
			Ready: func(s *State) { ready <- s.Device }})
	}()
	var file string
	select {
	case file = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte{7}, 4096)
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt(page, 8192)
		}
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = f.Close()
		}
		done <- err
	}()
	<-hangs.came
	c.moves <- record(2, "n2")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if err := blockdev.ReadAt(mem, got, 8192); err != nil || !bytes.Equal(got, page) {
		t.Errorf("the next primary has %x…, %v", got[:4], err)
	}
	if c.number != 2 {
		t.Errorf("%d sessions, not one for each connection", c.number)
	}
	stop()
	<-ended
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file is left: %v", err)
	}
}

// parameters lets clients show a token.
func parameters(dev blockdev.Device) func(nbd.Opening) (blockdev.Device, error) {
	return func(nbd.Opening) (blockdev.Device, error) { return open{dev}, nil }
}

// open is a device for one connection, that stays open for the others.
type open struct{ blockdev.Device }

func (open) Close() error { return nil }
