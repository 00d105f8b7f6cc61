package drill

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Action is what is done to a node.
type Action string

// What can be done to a node.
const (
	Kill    Action = "kill"    // its blkd ends at once, as by SIGKILL or the loss of the machine; something starts it again
	Pause   Action = "pause"   // its blkd stands still, until
	Resume  Action = "resume"  // it goes on
	Isolate Action = "isolate" // the network between it and all others is cut, until
	Heal    Action = "heal"    // it is whole
)

// Hands do something to a node.
type Hands interface {
	// Can tells whether they know how.
	Can(Action) bool
	// Fast tells whether they are quick enough for many actions a second.
	Fast() bool
	// Do returns when it has been done.
	Do(ctx context.Context, node string, a Action) error
}

// Dev has the processes of a blkctl dev in its hands, by the directory of that.
type Dev struct{ Dir string }

// PidFile is where blkctl dev writes the process of a node down, in the node's
// directory.
const PidFile = "pid"

var signals = map[Action]syscall.Signal{Kill: syscall.SIGKILL, Pause: syscall.SIGSTOP, Resume: syscall.SIGCONT}

// Can implements Hands.
func (d Dev) Can(a Action) bool { return signals[a] != 0 }

// Fast implements Hands.
func (d Dev) Fast() bool { return true }

// Do implements Hands.
func (d Dev) Do(_ context.Context, node string, a Action) error {
	file := filepath.Join(d.Dir, node, PidFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w; is %s the directory of a blkctl dev that runs?", err, d.Dir)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		return fmt.Errorf("%s does not hold the id of a process", file)
	}
	if err := syscall.Kill(pid, signals[a]); err != nil {
		return fmt.Errorf("%s process %d of node %s: %w", a, pid, node, err)
	}
	return nil
}

// Commands are run by a shell of this machine.
type Commands struct {
	// Template is what is run: {node} stands for the node's name, {command} for the
	// command of the action.
	Template string
	// Actions are the commands, empty for what cannot be done.
	Actions map[Action]string
}

// Can implements Hands.
func (c Commands) Can(a Action) bool { return c.Actions[a] != "" }

// Fast implements Hands.
func (c Commands) Fast() bool { return false }

// Do implements Hands.
func (c Commands) Do(ctx context.Context, node string, a Action) error {
	line := strings.NewReplacer("{node}", node, "{command}", strings.ReplaceAll(c.Actions[a], "{node}", node)).Replace(c.Template)
	out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}
