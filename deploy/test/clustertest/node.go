package clustertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"
)

// Node is one blkd process, or the place for one.
type Node struct {
	Name    string
	Address string // of its peer service

	program, dir string
	args, env    []string
	namespace    string // empty: that of the program
	conn         *grpc.ClientConn

	cmd   *exec.Cmd     // nil: it does not run
	ended chan struct{} // closed when the process is gone
	exit  error         // how it ended; valid once ended is closed
}

func (n *Node) socket() string  { return filepath.Join(n.dir, "blkd.sock") }
func (n *Node) logFile() string { return filepath.Join(n.dir, "log") }

// Conn is a connection to its control socket; it outlives the process.
func (n *Node) Conn() *grpc.ClientConn { return n.conn }

// Runs tells whether it was started, and not ended since.
func (n *Node) Runs() bool { return n.cmd != nil }

// Start starts the process and does not wait for it.
func (n *Node) Start() error {
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := append([]string{n.program}, n.args...)
	if n.namespace != "" {
		argv = append([]string{"ip", "netns", "exec", n.namespace}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		n.exit = cmd.Wait()
		close(ended)
	}(n.ended)
	return nil
}

// Kill ends the process with SIGKILL, if it runs, and waits until it is gone.
func (n *Node) Kill() {
	if n.cmd == nil {
		return
	}
	n.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-n.ended
	n.cmd = nil
}

// Stop ends the process in order, waits until it is gone, and tells what was
// wrong with its end.
func (n *Node) Stop() error {
	if n.cmd == nil {
		return errors.New("node " + n.Name + " does not run")
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-n.ended
	n.cmd = nil
	if n.exit != nil {
		return fmt.Errorf("node %s, told to stop: %w\n%s", n.Name, n.exit, n.Log())
	}
	return nil
}

// Pid is the id of the process; 0: none runs.
func (n *Node) Pid() int {
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// Log is the end of what the node said.
func (n *Node) Log() string {
	text, err := os.ReadFile(n.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if extra := len(lines) - 30; extra > 0 {
		lines = lines[extra:]
	}
	return "the end of the log of " + n.Name + ":\n  " + strings.Join(lines, "\n  ")
}

// Pause makes the process stand still until Resume, and the others wonder.
func (n *Node) Pause() error { return n.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on, if it stands still.
func (n *Node) Resume() error { return n.cmd.Process.Signal(syscall.SIGCONT) }
