package service

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Config is what runs with a volume on this node: a TOML file, the same on every node.
type Config struct {
	Volume string `toml:"volume"`
	// Device has the volume attached as /dev/blkd/by-name/VOLUME. Without it the volume
	// is only held, for steps that reach it as NBD clients: BLKD_URI tells where.
	Device *bool `toml:"device"`
	// Relay has the device reach the primary through the manager's process: blkctl attach
	// --relay tells what that is for. TLSCertificates is a directory as that command's
	// --nbd-tls-certificates has it, and demands TLS; only with a relay.
	Relay           bool   `toml:"relay"`
	TLSCertificates string `toml:"nbd_tls_certificates"`
	// Takeover is how long the node before may take to give the volume up, when the
	// service is moved; then it is taken over. Zero: the times to stop, and 30 s more.
	Takeover Duration `toml:"takeover_after"`
	Steps    []Step   `toml:"step"`
}

// Step is one thing that is started. It is one of a unit, an OCF agent and commands, all
// of which must do nothing, and succeed, if it is started or stopped already.
type Step struct {
	Name string `toml:"name"` // for people; default: what it is

	Unit string `toml:"unit"` // of systemd

	OCF    string            `toml:"ocf"`    // PROVIDER:AGENT
	Params map[string]string `toml:"params"` // of the agent

	Start  string `toml:"start"`  // for sh -c
	Stop   string `toml:"stop"`   // likewise
	Status string `toml:"status"` // likewise; empty: nobody looks whether it runs

	StartTimeout Duration `toml:"start_timeout"` // default 1 min
	StopTimeout  Duration `toml:"stop_timeout"`  // default 1 min
}

// Duration is a time as people write it: "90s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	x, err := time.ParseDuration(string(text))
	if err == nil && x <= 0 {
		err = fmt.Errorf("%s is no time to wait", text)
	}
	*d = Duration(x)
	return err
}

const (
	stepTime     = Duration(time.Minute)
	takeoverMore = 30 * time.Second
)

// Load reads a configuration and fills in what it leaves out.
func Load(file string) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return nil, fmt.Errorf("%s: unknown settings:\n%s", file, strict.String())
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

var agentName = regexp.MustCompile(`^[A-Za-z0-9_-]+:[A-Za-z0-9_-]+$`)

// complete checks the configuration and sets defaults.
func (c *Config) complete() error {
	if c.Volume == "" {
		return errors.New("volume: name the volume")
	}
	if len(c.Steps) == 0 {
		return errors.New("step: there is nothing to start")
	}
	if c.Device == nil {
		c.Device = new(true)
	}
	switch {
	case c.Relay && !*c.Device:
		return errors.New("relay: without a device there is none")
	case c.TLSCertificates != "" && !c.Relay:
		return errors.New("nbd_tls_certificates: the kernel's NBD client speaks no TLS: set relay = true")
	}
	seen := map[string]bool{}
	sum := takeoverMore
	for i := range c.Steps {
		s := &c.Steps[i]
		if err := s.complete(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		if seen[s.Name] {
			return fmt.Errorf("step %d: there are two of name %q: give them names", i+1, s.Name)
		}
		seen[s.Name] = true
		sum += time.Duration(s.StopTimeout)
	}
	if c.Takeover == 0 {
		c.Takeover = Duration(sum)
	}
	return nil
}

func (s *Step) complete() error {
	kinds := 0
	for _, is := range []bool{s.Unit != "", s.OCF != "", s.Start != "" || s.Stop != ""} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New("it needs one of: unit, ocf, start and stop")
	case s.OCF != "" && !agentName.MatchString(s.OCF):
		return fmt.Errorf("ocf: %q is not PROVIDER:AGENT, as heartbeat:Filesystem", s.OCF)
	case s.OCF == "" && len(s.Params) > 0:
		return errors.New("params are for OCF agents")
	case s.Unit == "" && s.OCF == "" && (s.Start == "" || s.Stop == ""):
		return errors.New("it needs both start and stop")
	case s.Status != "" && s.Start == "":
		return errors.New("status is for commands: units and agents tell by themselves")
	}
	if s.Name == "" {
		s.Name = s.Unit + s.OCF
	}
	if s.Name == "" {
		s.Name, _, _ = strings.Cut(s.Start, " ")
	}
	if s.StartTimeout == 0 {
		s.StartTimeout = stepTime
	}
	if s.StopTimeout == 0 {
		s.StopTimeout = stepTime
	}
	return nil
}
