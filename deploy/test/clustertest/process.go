package clustertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a program that runs again and again, or the place for one. Its
// methods are for the goroutine that started it, but for Log.
type Process struct {
	Name      string
	Args      []string // the program first
	Env       []string // besides this program's
	Namespace string   // of the network; empty: that of this program
	LogFile   string   // what it says is appended to it

	cmd   *exec.Cmd     // nil: it does not run
	ended chan struct{} // closed when the process is gone
	exit  error         // how it ended; valid once ended is closed
}

// Runs tells whether it was started, and not ended since.
func (p *Process) Runs() bool { return p.cmd != nil }

// Start starts the process and does not wait for it.
func (p *Process) Start() error {
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := p.Args
	if p.Namespace != "" {
		argv = append([]string{"ip", "netns", "exec", p.Namespace}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		p.exit = cmd.Wait()
		close(ended)
	}(p.ended)
	return nil
}

// Kill ends the process with SIGKILL, if it runs, and waits until it is gone.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.ended
	p.cmd = nil
}

// Stop ends the process in order, waits until it is gone, and tells what was
// wrong with its end.
func (p *Process) Stop() error {
	if p.cmd == nil {
		return errors.New(p.Name + " does not run")
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-p.ended
	p.cmd = nil
	if p.exit != nil {
		return fmt.Errorf("%s, told to stop: %w\n%s", p.Name, p.exit, p.Log())
	}
	return nil
}

// Pause makes the process stand still until Resume, and the others wonder. It
// returns when every thread does. In a network namespace the process is that of blkd
// itself, into which ip has turned.
func (p *Process) Pause() error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WSTOPPED, nil)
}

// Resume lets it go on, if it stands still.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Log is the end of what the process said.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if extra := len(lines) - 30; extra > 0 {
		lines = lines[extra:]
	}
	return "the end of the log of " + p.Name + ":\n  " + strings.Join(lines, "\n  ")
}

// Pid is the id of the process; 0: none runs.
func (p *Process) Pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}
