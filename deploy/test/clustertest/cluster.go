package clustertest

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
)

// patience is how long a cluster may take for what it does by itself, on a very
// busy machine.
const patience = time.Minute

// Config is what a cluster is made of.
type Config struct {
	Blkd  string   // program
	Dir   string   // empty directory
	Names []string // of the nodes, in the order of the founding list
	// Witnesses are the nodes without data, by name.
	Witnesses map[string]bool
	// Network has the nodes in network namespaces; nil: they share the loopback.
	Network *Network
	// TLS is the directory of a certificate authority that has issued a certificate
	// to every node; empty: the nodes speak plain text.
	TLS string
	// Args and Env are given to every node besides.
	Args, Env []string
}

// Node is one blkd process, or the place for one.
type Node struct {
	Process
	Address string // of its peer service

	dir  string
	conn *grpc.ClientConn
}

func (n *Node) socket() string { return filepath.Join(n.dir, "blkd.sock") }

// NBD is the path of the socket for NBD clients.
func (n *Node) NBD() string { return filepath.Join(n.dir, "nbd.sock") }

// Conn is a connection to its control socket; it outlives the process.
func (n *Node) Conn() *grpc.ClientConn { return n.conn }

// Cluster is a cluster of real processes. Its methods are for one goroutine, but
// for Node.Conn and what is read from fields.
type Cluster struct {
	Nodes []*Node
}

// New prepares a cluster and starts nothing.
func New(cfg Config) (*Cluster, error) {
	c := &Cluster{}
	var list []string
	for i, name := range cfg.Names {
		address, err := cfg.Network.address(i)
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(cfg.Dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		n := &Node{Address: address, dir: dir, Process: Process{
			Name: name, Env: cfg.Env, Namespace: cfg.Network.Namespace(i), LogFile: filepath.Join(dir, "log")}}
		if n.conn, err = api.Dial(n.socket()); err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
		list = append(list, name+"="+address)
	}
	for _, n := range c.Nodes {
		n.Args = append([]string{cfg.Blkd, "--cluster", strings.Join(list, ","), "--node-name", n.Name,
			"--data-dir", filepath.Join(n.dir, "data"), "--socket", n.socket(), "--nbd", "unix:" + n.NBD()}, cfg.Args...)
		if cfg.Witnesses[n.Name] {
			n.Args = append(n.Args, "--witness")
		}
		switch {
		case cfg.TLS != "":
			n.Args = append(n.Args, "--tls-dir", filepath.Join(cfg.TLS, n.Name))
		case n.Namespace != "":
			n.Args = append(n.Args, "--insecure")
		}
	}
	return c, nil
}

// Start starts every node and waits until all are there and registered.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return c.Settle(ctx)
}

// Settle waits until every node that runs is recorded as up by a quorum to which
// each of them belongs.
func (c *Cluster) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, n := range c.Nodes {
		if !n.Runs() {
			continue
		}
		var last error
		for {
			if last = c.settled(ctx, n); last == nil {
				break
			}
			select {
			case <-n.ended:
				return fmt.Errorf("node %s has ended: %w\n%s", n.Name, n.exit, n.Log())
			case <-ctx.Done():
				return fmt.Errorf("the cluster does not come to rest within %v: node %s: %w\n%s", patience, n.Name, last, n.Log())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// settled asks one node.
func (c *Cluster) settled(ctx context.Context, n *Node) error {
	st, err := api.NewClusterServiceClient(n.conn).Status(ctx, &api.ClusterStatusRequest{})
	switch {
	case err != nil:
		return err
	case st.Stale:
		return errors.New("it has no quorum")
	}
	for _, other := range c.Nodes {
		i := indexOf(st.Nodes, other.Name)
		if other.Runs() && (i < 0 || !works(st.Nodes[i])) {
			return fmt.Errorf("node %s is not up", other.Name)
		}
	}
	return nil
}

func indexOf(nodes []*api.ClusterNode, name string) int {
	for i, n := range nodes {
		if n.Record.GetName() == name {
			return i
		}
	}
	return -1
}

func works(n *api.ClusterNode) bool {
	return n.Record.Incarnation != 0 && n.Record.Health.String() == "HEALTH_UP" && n.Role != api.NodeRole_NODE_ROLE_NONE
}

// Leader is the node that leads, as one that runs knows it.
func (c *Cluster) Leader(ctx context.Context) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		for _, n := range c.Nodes {
			if !n.Runs() {
				continue
			}
			st, err := api.NewClusterServiceClient(n.conn).Status(ctx, &api.ClusterStatusRequest{})
			if err != nil || st.Stale {
				continue
			}
			for _, leader := range c.Nodes {
				if leader.Name == st.Quorum.GetLeader() && leader.Runs() {
					return leader, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no node leads: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Transfer hands the leadership to another voter, of a name or, if that is empty,
// of the leader's choice, and returns the one that leads then.
func (c *Cluster) Transfer(ctx context.Context, to string) (*Node, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := api.NewClusterServiceClient(leader.conn).TransferLeadership(ctx, &api.TransferLeadershipRequest{To: to}); err != nil {
		return nil, err
	}
	return c.Leader(ctx)
}

// Close kills what still runs and closes the connections.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		n.Kill()
		n.conn.Close() //nolint:errcheck // nothing depends on it any more
	}
}

// Conns are connections to the nodes, in their order. They may be used by any
// goroutine and outlive the processes.
func (c *Cluster) Conns() []*grpc.ClientConn {
	conns := make([]*grpc.ClientConn, len(c.Nodes))
	for i, n := range c.Nodes {
		conns[i] = n.conn
	}
	return conns
}

// FreeAddress is a loopback address, HOST:PORT, that nobody listens on.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
