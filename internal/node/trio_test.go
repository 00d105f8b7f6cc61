package node

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"blkd/internal/api"
	"blkd/internal/env"
)

// trio is a cluster of nodes n1, n2, … in this process, on loopback.
type trio struct {
	t         *testing.T
	dir       string
	cfgs      map[string]Config
	listeners map[string]net.Listener // opened in advance, so that the ports are known
	nodes     map[string]*Node
	logs      map[string]*syncBuffer
	fs        map[string]env.FS // instead of the operating system's
}

// newTrio prepares a cluster; edit may change each configuration.
func newTrio(t *testing.T, names []string, edit func(*Config)) *trio {
	t.Helper()
	dir, err := os.MkdirTemp("", "blk") // sockets want short paths
	if err != nil {
		t.Fatal(err)
	}
	c := &trio{t: t, dir: dir, cfgs: map[string]Config{}, listeners: map[string]net.Listener{}, nodes: map[string]*Node{}, logs: map[string]*syncBuffer{}}
	t.Cleanup(c.end)
	var list []string
	for _, name := range names {
		list = append(list, name+"="+c.listen(name))
	}
	for _, name := range names {
		c.configure(name, list, edit)
	}
	return c
}

// listen opens a node's cluster address.
func (c *trio) listen(name string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.listeners[name] = l
	return l.Addr().String()
}

func (c *trio) configure(name string, list []string, edit func(*Config)) {
	c.t.Helper()
	cfg := DefaultConfig()
	cfg.NodeName, cfg.DataDir, cfg.Cluster.Nodes = name, filepath.Join(c.dir, name), list
	cfg.NBD.Listen = []string{"unix:" + filepath.Join(c.dir, name+".nbd")}
	if edit != nil {
		edit(&cfg)
	}
	if err := cfg.validate(); err != nil {
		c.t.Fatal(err)
	}
	c.cfgs[name] = cfg
	c.logs[name] = &syncBuffer{}
}

// start starts a node, which then looks for the others.
func (c *trio) start(names ...string) {
	c.t.Helper()
	for _, name := range names {
		w := World{FS: c.fs[name], Log: slog.New(slog.NewTextHandler(c.logs[name], nil)), Cluster: c.listeners[name]}
		delete(c.listeners, name)
		if w.FS == nil {
			w.FS = env.OS{}
		}
		n, err := Start(c.cfgs[name], w)
		if err != nil {
			c.t.Fatal(err)
		}
		c.nodes[name] = n
	}
}

// startAll starts every node and waits until all are members.
func (c *trio) startAll() {
	c.t.Helper()
	for name := range c.cfgs {
		c.start(name)
	}
	for name := range c.cfgs {
		c.ready(name)
	}
}

func (c *trio) ready(name string) {
	c.t.Helper()
	select {
	case <-c.nodes[name].Ready():
	case <-time.After(time.Minute):
		c.t.Fatalf("%s did not become a member: %+v", name, c.nodes[name].member.cluster.Status())
	}
}

// kill stops a node without the hand-over that a stop begins with.
func (c *trio) kill(names ...string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, name := range names {
		_ = c.nodes[name].Stop(ctx) // it complains that it had no time
		delete(c.nodes, name)
	}
}

// end stops what runs, all at once so that nobody waits for a leader, and shows
// the logs of a test that failed.
func (c *trio) end() {
	var stops sync.WaitGroup
	for _, n := range c.nodes {
		stops.Go(func() { stop(c.t, n) })
	}
	stops.Wait()
	for _, l := range c.listeners {
		l.Close()
	}
	os.RemoveAll(c.dir)
	for name, log := range c.logs {
		if c.t.Failed() {
			c.t.Logf("log of %s:\n%s", name, log)
		}
	}
}

// services are the clients of a node's services.
type services struct {
	api.ClusterServiceClient
	volumes api.VolumeServiceClient
	node    api.NodeServiceClient
	health  grpc_health_v1.HealthClient
}

func newServices(conn *grpc.ClientConn) services {
	return services{api.NewClusterServiceClient(conn), api.NewVolumeServiceClient(conn), api.NewNodeServiceClient(conn), grpc_health_v1.NewHealthClient(conn)}
}

// socket reaches a node over its control socket.
func (c *trio) socket(name string) services { return newServices(control(c.t, c.nodes[name])) }

// address reaches a node over its cluster address.
func (c *trio) address(name string) services {
	cfg := c.cfgs[name]
	conn, err := api.DialNode(cfg.clusterAddress(cfg.list()), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return newServices(conn)
}

// brief is time enough for any call, and an end to one that hangs.
func brief(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var three = []string{"n1", "n2", "n3"}
