package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"blkd/internal/statefile"
)

// DefaultDir is where attachments of this host are kept: they end with the boot.
const DefaultDir = "/run/blkd/attach"

// State is an attachment of this host, as a file tells it to hooks and to the next
// agent.
type State struct {
	Volume     string   `json:"volume"`
	Holder     string   `json:"holder"`
	Attachment uint64   `json:"attachment"` // number of the session; 0: it only reads
	Since      uint64   `json:"since"`      // of the holder's first session
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
func Load(dir, volume string) (*State, error) { return statefile.Load[State](stateFile(dir, volume)) }

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

// EnvFile has the variables of an attachment (see [statefile.Volume]) for EnvironmentFile=
// of units, which so do not start without it. A volume that is only read has none.
func EnvFile(dir, volume string) string { return filepath.Join(dir, volume+".env") }

func (s *State) save(dir string) error {
	if !s.ReadOnly {
		env := []string{statefile.Volume + "=" + s.Volume, statefile.Holder + "=" + s.Holder,
			fmt.Sprintf("%s=%d", statefile.Attachment, s.Since), statefile.Device + "=" + s.Device}
		if err := statefile.SaveEnv(EnvFile(dir, s.Volume), env); err != nil {
			return err
		}
	}
	return statefile.Save(stateFile(dir, s.Volume), s)
}

// lock makes this process the only agent of a volume on this host.
func lock(dir, volume string) (*os.File, error) {
	f, err := statefile.Lock(filepath.Join(dir, volume+".lock"))
	if errors.Is(err, statefile.ErrLocked) {
		return nil, ErrRunning
	}
	return f, err
}

// ErrRunning tells that an agent of the volume runs on this host.
var ErrRunning = errors.New("the volume is attached to this host already")
