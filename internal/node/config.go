package node

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"blkd/internal/api"
	"blkd/internal/units"
)

// Config is everything an operator can set. The toml tag is the key in the
// configuration file; flag and environment variable follow from the option table
// in options.go.
type Config struct {
	Standalone bool     `toml:"standalone"`
	NodeName   string   `toml:"node_name"`
	DataDir    string   `toml:"data_dir"`
	Socket     string   `toml:"socket"`
	Volume     []string `toml:"volume"` // NAME=SIZE

	Cluster ClusterConfig `toml:"cluster"`
	NBD     NBDConfig     `toml:"nbd"`
	Store   StoreConfig   `toml:"store"`
	Metrics MetricsConfig `toml:"metrics"`
	Log     LogConfig     `toml:"log"`
}

// ClusterConfig is the section [cluster].
type ClusterConfig struct {
	Nodes    []string `toml:"nodes"`   // NAME=HOST:PORT, the same on all nodes
	Address  string   `toml:"address"` // where the other nodes reach this one; empty: as in nodes
	Listen   string   `toml:"listen"`  // HOST:PORT; empty: address
	Witness  bool     `toml:"witness"`
	Labels   []string `toml:"labels"` // KEY=VALUE
	TLSDir   string   `toml:"tls_dir"`
	TLSCert  string   `toml:"tls_cert"`
	TLSKey   string   `toml:"tls_key"`
	TLSCA    string   `toml:"tls_ca"`
	Insecure bool     `toml:"insecure"`
	Fencing  string   `toml:"fencing"` // file with fencing.Config; empty: machines are not switched
}

// NBDConfig is the section [nbd].
type NBDConfig struct {
	Listen         []string `toml:"listen"` // HOST:PORT or unix:PATH
	TLS            string   `toml:"tls"`    // off, allowed or required
	TLSCert        string   `toml:"tls_cert"`
	TLSKey         string   `toml:"tls_key"`
	TLSCA          string   `toml:"tls_ca"`
	MaxConnections int      `toml:"max_connections"`
}

// StoreConfig is the section [store]; it applies to every volume.
type StoreConfig struct {
	OnFull      string `toml:"on_full"`  // wait or fail
	LogSize     string `toml:"log_size"` // of volumes created from now on; empty: by volume size
	Cache       string `toml:"cache"`    // metadata cache per volume; empty: the store's default
	NoChecksums bool   `toml:"no_checksums"`
}

// MetricsConfig is the section [metrics].
type MetricsConfig struct {
	Listen string `toml:"listen"`
	Pprof  bool   `toml:"pprof"`
}

// LogConfig is the section [log].
type LogConfig struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // text or json
}

// DefaultNBD is where NBD clients are served when nothing else is said.
const DefaultNBD = "127.0.0.1:10809"

// DefaultConfig is the configuration before file, environment and flags.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return Config{
		NodeName: host,
		DataDir:  api.DefaultDataDir(),
		NBD:      NBDConfig{Listen: []string{DefaultNBD}, TLS: "off", MaxConnections: 1024},
		Store:    StoreConfig{OnFull: "wait"},
		Log:      LogConfig{Level: "info", Format: "text"},
	}
}

// bind makes a flag of every option; its default is what c holds.
func (c *Config) bind(fs *pflag.FlagSet) {
	for _, o := range options {
		o.bind(c, fs, o)
	}
}

// VolumeSpec is one volume that shall exist.
type VolumeSpec struct {
	Name string
	Size int64 // bytes
}

var volumeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckVolumeName says what is wrong with a volume's name, which becomes a
// directory, an NBD export name and a metric label.
func CheckVolumeName(name string) error {
	if !volumeName.MatchString(name) {
		return fmt.Errorf("volume name %q: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit", name)
	}
	return nil
}

// parseVolume reads NAME=SIZE.
func parseVolume(s string) (VolumeSpec, error) {
	name, size, ok := strings.Cut(s, "=")
	if !ok {
		return VolumeSpec{}, fmt.Errorf("volume %q: write NAME=SIZE, for example demo=1GiB", s)
	}
	if err := CheckVolumeName(name); err != nil {
		return VolumeSpec{}, err
	}
	n, err := units.ParseSize(size)
	if err != nil {
		return VolumeSpec{}, fmt.Errorf("volume %s: %w", name, err)
	}
	if err := checkVolumeSize(n); err != nil {
		return VolumeSpec{}, fmt.Errorf("volume %s: %w", name, err)
	}
	return VolumeSpec{Name: name, Size: n}, nil
}

// volumes reads the volume option.
func (c *Config) volumes() ([]VolumeSpec, error) {
	seen := map[string]bool{}
	var specs []VolumeSpec
	for _, s := range c.Volume {
		spec, err := parseVolume(s)
		if err != nil {
			return nil, err
		}
		if seen[spec.Name] {
			return nil, fmt.Errorf("volume %s is given twice", spec.Name)
		}
		seen[spec.Name] = true
		specs = append(specs, spec)
	}
	return specs, nil
}

// socketPath is where the control interface listens.
func (c *Config) socketPath() string {
	if c.Socket != "" {
		return c.Socket
	}
	return filepath.Join(c.DataDir, api.SocketName)
}
