package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"blkd/internal/api"
	"blkd/internal/drill"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// patience is how long a cluster may take for what it does by itself, on a very
// busy machine.
const patience = time.Minute

// node is one node of the cluster, whether it runs or not.
type node struct {
	name    string
	address string // of its cluster service, HOST:PORT
	nbd     string // where NBD clients connect, HOST:PORT
	dir     string
	conn    *grpc.ClientConn
	process *process // nil: it does not run
}

func (n *node) cluster() api.ClusterServiceClient { return api.NewClusterServiceClient(n.conn) }
func (n *node) volumes() api.VolumeServiceClient  { return api.NewVolumeServiceClient(n.conn) }
func (n *node) logFile() string                   { return filepath.Join(n.dir, "log") }

// uri is where a volume is found on the node.
func (n *node) uri(volume string) string { return "nbd://" + n.nbd + "/" + volume }

// dial connects to a volume on the node.
func (n *node) dial(ctx context.Context, volume string) (*nbd.Client, error) {
	return nbd.Dial(ctx, n.uri(volume), nbd.DialOptions{})
}

// cluster is nodes n1, n2, … on loopback.
type cluster struct {
	blkd    string
	starter *starter
	nodes   []*node
}

// newCluster prepares a cluster in a directory and starts nothing. A directory that
// held one of as many nodes holds it again, with the same addresses.
func newCluster(blkd, dir string, count int) (*cluster, error) {
	c := &cluster{blkd: blkd, starter: newStarter()}
	addresses, err := remembered(filepath.Join(dir, "addresses"), 2*count)
	if err != nil {
		return nil, err
	}
	for i := range count {
		n := &node{name: fmt.Sprintf("n%d", i+1), address: addresses[2*i], nbd: addresses[2*i+1]}
		n.dir = filepath.Join(dir, n.name)
		if err := os.MkdirAll(n.dir, 0o755); err != nil {
			return nil, err
		}
		if n.conn, err = api.DialNode(n.address, nil); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// remembered reads addresses from a file; if there is none it chooses free ones and
// writes them there.
func remembered(file string, count int) ([]string, error) {
	text, err := os.ReadFile(file)
	if err == nil {
		addresses := strings.Fields(string(text))
		if len(addresses) != count {
			return nil, fmt.Errorf("%s is of a cluster of %d nodes: ask for as many, or name an empty directory", filepath.Dir(file), len(addresses)/2)
		}
		return addresses, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	addresses, err := freeAddresses(count)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	return addresses, os.WriteFile(file, []byte(strings.Join(addresses, "\n")+"\n"), 0o644)
}

// freeAddresses are loopback addresses that nobody listens on.
func freeAddresses(count int) ([]string, error) {
	var addresses []string
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // only at the end, so that none is given out twice
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// list is the nodes as --node of blkctl takes them.
func (c *cluster) list() string {
	var list []string
	for _, n := range c.nodes {
		list = append(list, n.address)
	}
	return strings.Join(list, ",")
}

// start starts a node and does not wait for it.
func (c *cluster) start(n *node) error {
	var founders []string
	for _, n := range c.nodes {
		founders = append(founders, n.name+"="+n.address)
	}
	var err error
	n.process, err = c.starter.launch(n.logFile(), c.blkd, "--cluster", strings.Join(founders, ","), "--node-name", n.name,
		"--data-dir", filepath.Join(n.dir, "data"), "--nbd", n.nbd, "--log-format", "json")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.dir, drill.PidFile), fmt.Appendln(nil, n.process.cmd.Process.Pid), 0o644)
}

// startAll starts every node and waits until all of them know that all are up.
func (c *cluster) startAll(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := c.start(n); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := c.await(ctx, n, c.settled); err != nil {
			return err
		}
	}
	return nil
}

// kill ends a node with SIGKILL.
func (n *node) kill() {
	n.process.kill()
	n.process = nil
}

// await asks a node again and again until it has nothing to complain of.
func (c *cluster) await(ctx context.Context, n *node, ask func(context.Context, *node) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ask(ctx, n)
		if err == nil {
			return nil
		}
		select {
		case <-n.process.ended:
			return fmt.Errorf("node %s has ended: %w\n%s", n.name, n.process.err, tail(n.logFile()))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("waited %v: %w\n%s", patience, err, tail(n.logFile()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// settled tells whether a node has a quorum, belongs to it, and sees all others up.
func (c *cluster) settled(ctx context.Context, n *node) error {
	s, err := n.cluster().Status(ctx, &api.ClusterStatusRequest{})
	switch {
	case err != nil:
		return said(err)
	case s.Stale:
		return fmt.Errorf("node %s has no quorum", n.name)
	}
	up := 0
	for _, other := range s.Nodes {
		if other.Record.GetHealth() == metapb.Health_HEALTH_UP && other.Role != api.NodeRole_NODE_ROLE_NONE {
			up++
		}
	}
	if up < len(c.nodes) {
		return fmt.Errorf("of %d nodes %d are up", len(c.nodes), up)
	}
	return nil
}

// find is the node of a name; nil: there is none.
func (c *cluster) find(name string) *node {
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// close ends every process, cruelly: nothing that they hold is needed any more if
// the directory is to be removed. Otherwise stop comes first.
func (c *cluster) close() {
	for _, n := range c.nodes {
		if n.process != nil {
			n.kill()
		}
		n.conn.Close()
	}
	c.starter.close()
}
