package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"blkd/nbd"
)

// ErrNoFuse tells that the program is missing which makes a file of a volume.
var ErrNoFuse = errors.New("nbdfuse is not installed")

// fuseDir is where volumes are mounted as files, as DIR/VOLUME/VOLUME.
const fuseDir = "/run/blkd/fuse"

// fuseTime is how long nbdfuse may take to mount.
const fuseTime = 10 * time.Second

// RunFuse attaches the volume as Run does, but as a file that libnbd's nbdfuse makes
// of the relay: for hosts whose kernel has no NBD client. The file is there as long as
// this process; when ctx ends it is removed. The errors are those of Run, and
// ErrNoFuse.
func RunFuse(ctx context.Context, cfg Config) error {
	if _, err := exec.LookPath("nbdfuse"); err != nil {
		return ErrNoFuse
	}
	held, err := lock(cfg.Dir, cfg.Volume)
	if err != nil {
		return err
	}
	defer held.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &Agent{cfg: cfg, heard: make(chan heard)}
	a.follow(ctx)
	takeover := cfg.Takeover
	for first := true; ; first = false {
		a.leave(ctx, nil, -1, false)
		if err := a.session(ctx, nil, !first, takeover); err != nil {
			return because(ctx, err)
		}
		takeover = false
		err := a.retry(ctx, nil, "the primary cannot be reached", func() (err error) {
			a.up, err = a.dialRelay(ctx)
			return err
		})
		if err != nil {
			return because(ctx, err)
		}
		a.size = a.up.Size()
		if first {
			file, end, err := a.mount(ctx, cancel)
			if err != nil {
				return err
			}
			defer end()
			if err := errors.Join(link(cfg.Volume, file), a.note(file)); err != nil {
				return err
			}
			defer remove(cfg.Dir, &a.state)
			cfg.Ready(&a.state)
		} else {
			a.relay.use(a.up)
			if err := a.note(a.state.Device); err != nil {
				return err
			}
		}
		if err := a.stay(ctx, nil, -1); err != nil {
			return because(ctx, err)
		}
	}
}

// because is why ctx has ended, or else err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// mount makes a relay and the file of it, which end takes away. When nbdfuse ends by
// itself, it cancels.
func (a *Agent) mount(ctx context.Context, cancel context.CancelCauseFunc) (file string, end func(), err error) {
	r, err := newRelay(a.cfg.Volume, a.up.Size(), a.cfg.ReadOnly)
	if err != nil {
		return "", nil, err
	}
	r.use(a.up)
	a.relay = r
	dir := filepath.Join(fuseDir, a.cfg.Volume)
	socket := filepath.Join(a.cfg.Dir, a.cfg.Volume+".sock")
	exec.Command("fusermount3", "-u", "-z", dir).Run() // what a process that was killed has left
	os.Remove(socket)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, err
	}
	go r.server.Serve(l) // ends with the relay
	file = filepath.Join(dir, a.cfg.Volume)
	args := []string{file, nbd.URI{Network: "unix", Address: socket, Export: a.cfg.Volume}.String()}
	if a.cfg.ReadOnly {
		args = append([]string{"--readonly"}, args...)
	}
	cmd := exec.Command("nbdfuse", args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what interrupts this process must not
	if err := cmd.Start(); err != nil {
		r.close()
		return "", nil, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() // the state tells
		cancel(fmt.Errorf("nbdfuse has ended: %v", cmd.ProcessState))
		close(ended)
	}()
	end = func() {
		exec.Command("fusermount3", "-u", "-z", dir).Run() // it may be unmounted
		cmd.Process.Kill()                                 // likewise: it has nothing that the relay has not
		<-ended
		r.close()
		os.Remove(dir)
	}
	if err := a.appears(ctx, file); err != nil {
		end()
		return "", nil, err
	}
	return file, end, nil
}

// appears waits for a file.
func (a *Agent) appears(ctx context.Context, file string) error {
	limit := time.After(fuseTime)
	for {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit:
			return fmt.Errorf("nbdfuse does not mount %s; is there /dev/fuse?", file)
		case h := <-a.heard:
			a.learn(h)
		case <-time.After(retryLeast):
		}
	}
}

// unmount takes the file of a volume away, unless it is open.
func unmount(s *State, force bool) error {
	args := []string{"-u", filepath.Dir(s.Device)}
	if force {
		args = append([]string{"-z"}, args...)
	}
	out, err := exec.Command("fusermount3", args...).CombinedOutput()
	if _, gone := os.Stat(s.Device); err != nil && gone == nil {
		return fmt.Errorf("%s: %w (%s)", s.Device, ErrInUse, bytes.TrimSpace(out))
	}
	return nil
}
