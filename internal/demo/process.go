package demo

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// errNoBlkd says that there is no program to run.
var errNoBlkd = errors.New("no blkd is beside this program, and none in PATH")

// FindBlkd is the path of the blkd that belongs to this program: the one beside it,
// else the one in PATH.
func FindBlkd() (string, error) {
	if own, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(own), "blkd")
		if info, err := os.Stat(beside); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath("blkd")
	if err != nil {
		return "", errNoBlkd
	}
	return path, nil
}

// starter starts processes from one thread, with which they die: so none of them
// outlives this program, however it ends.
type starter struct {
	commands chan func()
	once     sync.Once
}

func newStarter() *starter {
	s := &starter{commands: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range s.commands {
			f()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) (err error) {
	done := make(chan struct{})
	s.commands <- func() {
		err = cmd.Start()
		close(done)
	}
	<-done
	return err
}

// close kills what still runs.
func (s *starter) close() { s.once.Do(func() { close(s.commands) }) }

// process is one blkd that was started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone
	err   error         // how it ended; valid then
}

// launch starts a program that logs to a file. It gets a process group of its own,
// so that a terminal's Ctrl-C reaches this program alone, which ends the others.
// Settings for the blkd of this machine are not for it.
func (s *starter) launch(logFile, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(program, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BLKD_") })
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := s.start(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// kill ends it with SIGKILL and waits until it is gone.
func (p *process) kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.ended
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// tail is the end of a log file.
func tail(file string) string {
	const most = 20
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return fmt.Sprintf("the end of %s:\n  %s", file, strings.Join(lines[max(0, len(lines)-most):], "\n  "))
}
