package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"blkd/internal/statefile"
)

// DefaultDir is where services of this node are described: it ends with the boot, like
// what they have started.
const DefaultDir = "/run/blkd/service"

// Phase is how far a service is on this node, in one word.
type Phase string

// The phases; see the package comment.
const (
	Idle      Phase = "idle"
	Waiting   Phase = "waiting" // wanted here, and another client holds the volume
	Attaching Phase = "attaching"
	Starting  Phase = "starting"
	Running   Phase = "running"
	Stopping  Phase = "stopping"
	Stuck     Phase = "stuck"
)

// State is a service on this node, as a file tells it.
type State struct {
	Volume     string   `json:"volume"`
	Node       string   `json:"node"`
	Phase      Phase    `json:"phase"`
	Attachment uint64   `json:"attachment"` // under which it runs; 0: it does not hold the volume
	Started    []string `json:"started"`    // steps, in order
	Failures   int      `json:"failures"`   // in a row
	Error      string   `json:"error"`      // the last one, or what is waited for; empty: none
	PID        int      `json:"pid"`        // of the manager
}

func stateFile(dir, volume string) string { return filepath.Join(dir, volume+".json") }

// EnvFile has the variables of a service while it holds its volume, for EnvironmentFile=
// of units. It exists as long as anything may run.
func EnvFile(dir, volume string) string { return filepath.Join(dir, volume+".env") }

// LoadState reads the state of a volume's service; fs.ErrNotExist: this node has none.
func LoadState(dir, volume string) (*State, error) {
	return statefile.Load[State](stateFile(dir, volume))
}

func (s *State) save(dir string) error { return statefile.Save(stateFile(dir, s.Volume), s) }

// LoadEnv reads the variables of a service; fs.ErrNotExist: it does not hold its volume.
func LoadEnv(dir, volume string) ([]string, error) { return statefile.LoadEnv(EnvFile(dir, volume)) }

// leftover is the attachment under which an earlier manager has started things; 0: there
// is none.
func leftover(dir, volume string) (uint64, error) {
	env, err := LoadEnv(dir, volume)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, err
	}
	n, err := strconv.ParseUint(statefile.Variable(env, statefile.Attachment), 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s has no number of an attachment", EnvFile(dir, volume))
	}
	return n, nil
}

// ErrRunning tells that a manager of the service runs on this node.
var ErrRunning = errors.New("the service has a manager on this node already")

// lock makes this process the only manager of a service on this node.
func lock(dir, volume string) (*os.File, error) {
	f, err := statefile.Lock(filepath.Join(dir, volume+".lock"))
	if errors.Is(err, statefile.ErrLocked) {
		return nil, ErrRunning
	}
	return f, err
}
