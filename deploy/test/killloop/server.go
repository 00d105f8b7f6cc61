package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"blkd/nbd"
)

// The volumes: one is checked, the other only kept busy.
const (
	checkedVolume = "checked"
	noiseVolume   = "noise"
)

// startTimeout is how long recovery may take on a very busy machine.
const startTimeout = time.Minute

// server is the blkd under test.
type server struct {
	program, dir string
	cmd          *exec.Cmd
	ended        chan struct{} // closed when the process is gone
	exit         error         // how it ended; valid once ended is closed
}

func (s *server) socket() string  { return filepath.Join(s.dir, "nbd.sock") }
func (s *server) logFile() string { return filepath.Join(s.dir, "log") }

// uri is the NBD URI of a volume.
func (s *server) uri(volume string) string {
	return "nbd+unix:///" + volume + "?socket=" + url.QueryEscape(s.socket())
}

// spawn starts the process and does not wait for it to serve.
func (s *server) spawn() error {
	logFile, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	s.cmd = exec.Command(s.program, "--standalone", "--data-dir", filepath.Join(s.dir, "data"),
		"--volume", fmt.Sprintf("%s=%dMiB", checkedVolume, volumeSize>>20), "--volume", noiseVolume+"=64MiB",
		"--nbd", "unix:"+s.socket())
	s.cmd.Stdout, s.cmd.Stderr = logFile, logFile
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		s.exit = cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)
	return nil
}

// start starts the process and waits until it serves.
func (s *server) start(ctx context.Context) error {
	if err := s.spawn(); err != nil {
		return err
	}
	deadline := time.Now().Add(startTimeout)
	for {
		c, err := nbd.Dial(ctx, s.uri(checkedVolume), nbd.DialOptions{})
		if err == nil {
			return c.Close()
		}
		select {
		case <-s.ended:
			return fmt.Errorf("blkd ended (%v) instead of serving:\n%s", s.exit, s.log())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("blkd does not serve after %v: %w\n%s", startTimeout, err, s.log())
		}
	}
}

// kill sends SIGKILL and waits for the end; it does nothing if no server runs.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.ended
	s.cmd = nil
}

// stop asks the server to end and tells whether it did so in order.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.ended:
		s.cmd = nil
		return s.exit
	case <-time.After(startTimeout):
		s.kill()
		return errors.New("blkd did not end within a minute of SIGTERM")
	}
}

// log is the end of what the server said.
func (s *server) log() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// fioNoise is a fio that keeps the second volume busy until the server dies.
type fioNoise struct{ cmd *exec.Cmd }

func startFio(uri string) fioNoise {
	if _, err := exec.LookPath("fio"); err != nil {
		return fioNoise{}
	}
	cmd := exec.Command("fio", "--name=noise", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=4k",
		"--iodepth=32", "--fsync=64", "--time_based=1", "--runtime=60s", "--thread=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if cmd.Start() != nil {
		return fioNoise{}
	}
	return fioNoise{cmd}
}

// end waits for fio, which fails with its server; it does not wait for its runtime.
func (f fioNoise) end() {
	if f.cmd == nil {
		return
	}
	f.cmd.Process.Kill() // --thread: no child processes
	f.cmd.Wait()
}
