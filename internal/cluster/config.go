package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"blkd/internal/env"
	"blkd/metadata"
)

// Peer is one entry of the founding list.
type Peer struct {
	Name    string
	Address string // HOST:PORT of its peer service
}

// Config is who a node is and whom it looks for.
type Config struct {
	Name    string
	List    []Peer // the founding list, in the order given; the same on all nodes
	Address string // where the others reach this node; empty: as in the list
	Dir     string // of the metadata database; is made if absent
	Backup  string // file that a blank node founds its cluster from, if it is there; removed when that is done

	Witness bool
	Labels  map[string]string
	NBD     []string // where NBD clients connect

	Tick     time.Duration // of Raft, which beats every second one; 0: 50 ms
	Election time.Duration // silence after which a voter campaigns, at times twice that; 0: 500 ms
	NoQuorum time.Duration // without a leader or a majority, after which calls fail; 0: 2.5 s

	Detector metadata.DetectorConfig
	Steward  metadata.StewardConfig
}

// World is what a cluster node needs from its surroundings.
type World struct {
	FS    env.FS
	Clock env.Clock
	Log   *slog.Logger
	Rand  io.Reader // of cryptographic quality
	Boot  string    // boot id of the kernel

	// Credentials are those for a connection to a node; nil: plain text, and the
	// names that others claim are believed.
	Credentials func(node string) credentials.TransportCredentials
	// Dial opens connections to other nodes; nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Disk tells size and free space of the file system that holds the data
	// directory, in bytes; zeros: unknown.
	Disk func() (capacity, free int64)
}

// ParseList reads the entries NAME=HOST:PORT of a founding list. The error says
// which entry is wrong. A list of two is refused: neither node could go on
// without the other.
func ParseList(entries []string) ([]Peer, error) {
	var list []Peer
	seen := map[string]string{}
	for _, e := range entries {
		name, address, ok := strings.Cut(e, "=")
		if !ok {
			return nil, fmt.Errorf("%q: write NAME=HOST:PORT, for example n1=10.0.0.1:7400", e)
		}
		if err := CheckNodeName(name); err != nil {
			return nil, err
		}
		if err := checkAddress(address); err != nil {
			return nil, fmt.Errorf("node %s: %w", name, err)
		}
		for _, key := range []string{name, address} {
			if other, ok := seen[key]; ok {
				return nil, fmt.Errorf("%s is in both %s and %s", key, other, e)
			}
			seen[key] = e
		}
		list = append(list, Peer{Name: name, Address: address})
	}
	if len(list) == 2 {
		return nil, fmt.Errorf("two nodes cannot decide anything when one of them fails; add a third, which may be a witness without data: %s,w1=HOST:PORT with blkd --witness on it",
			formatList(list))
	}
	return list, nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host == "" {
		return fmt.Errorf("address %q names no host: the others must be able to connect to it", address)
	}
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("address %q: %w; write HOST:PORT", address, err)
	}
	return nil
}

// CheckNodeName says what is wrong with a node's name.
func CheckNodeName(name string) error {
	ok := name != "" && len(name) <= 63
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		ok = ok && (letter || i > 0 && strings.ContainsRune("-._", r))
	}
	if !ok {
		return fmt.Errorf("node name %q: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit", name)
	}
	return nil
}

func formatList(list []Peer) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.Name + "=" + p.Address
	}
	return strings.Join(words, ",")
}

// voters is how many nodes of a founding list vote: an odd number, so that no
// node more is needed than would be with one node less.
func voters(list int) int {
	switch {
	case list >= 5:
		return 5
	case list >= 3:
		return 3
	default:
		return 1
	}
}

// self is the node's own entry of the list; nil if it is not in it.
func (c *Config) self() *Peer {
	for i := range c.List {
		if c.List[i].Name == c.Name {
			return &c.List[i]
		}
	}
	return nil
}

// complete fills in what was left empty and says what is missing.
func (c *Config) complete() error {
	if err := CheckNodeName(c.Name); err != nil {
		return err
	}
	if len(c.List) == 0 {
		return fmt.Errorf("the founding list is empty")
	}
	if c.Address == "" {
		own := c.self()
		if own == nil {
			return fmt.Errorf("node %s is not in the list %s, and no address is set under which the others reach it", c.Name, formatList(c.List))
		}
		c.Address = own.Address
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.Tick, 50 * time.Millisecond}, {&c.Election, 500 * time.Millisecond}, {&c.NoQuorum, 2500 * time.Millisecond}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return nil
}

// silence is how long a voter may be silent and still be taken for present.
func (c *Config) silence() time.Duration {
	if c.Detector.SuspectMin != 0 {
		return c.Detector.SuspectMin
	}
	return c.Election
}

// Versions of the cluster's features that this build speaks.
const (
	versionMin = 1
	versionMax = 1
)
