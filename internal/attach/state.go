package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// DefaultDir is where attachments of this host are kept: they end with the boot.
const DefaultDir = "/run/blkd/attach"

// State is an attachment of this host, as a file tells it to hooks and to the next
// agent.
type State struct {
	Volume     string   `json:"volume"`
	Holder     string   `json:"holder"`
	Attachment uint64   `json:"attachment"` // number of the session; 0: it only reads
	Generation uint64   `json:"generation"` // of the volume, when it was last connected
	Primary    string   `json:"primary"`    // the node that it was connected to
	Device     string   `json:"device"`     // /dev/nbdN
	Backend    string   `json:"backend"`
	ReadOnly   bool     `json:"read_only"`
	Relay      bool     `json:"relay"`   // the kernel is connected to the agent
	Sockets    []string `json:"sockets"` // LOCAL REMOTE of each connection
	PID        int      `json:"pid"`     // of the agent
}

func stateFile(dir, volume string) string { return filepath.Join(dir, volume+".json") }

// Load reads the state of a volume's attachment; fs.ErrNotExist: there is none.
func Load(dir, volume string) (*State, error) {
	b, err := os.ReadFile(stateFile(dir, volume))
	if err != nil {
		return nil, err
	}
	s := &State{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile(dir, volume), err)
	}
	return s, nil
}

// List reads the states of all volumes attached to this host.
func List(dir string) ([]*State, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []*State
	for _, name := range names {
		s, err := Load(dir, strings.TrimSuffix(filepath.Base(name), ".json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (s *State) save(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	file := stateFile(dir, s.Volume)
	if err := os.WriteFile(file+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// lock makes this process the only agent of a volume on this host. It ends with the
// process.
func lock(dir, volume string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, volume+".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrRunning
		}
		return nil, err
	}
	return f, nil
}

// ErrRunning tells that an agent of the volume runs on this host.
var ErrRunning = errors.New("the volume is attached to this host already")
