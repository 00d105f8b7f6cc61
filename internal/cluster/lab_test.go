package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"blkd/internal/env"
	"blkd/internal/env/crashfs"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// lab runs whole clusters in one process: disks and the network are in memory,
// and time is that of a synctest bubble, so that an hour passes in a moment and a
// busy machine changes nothing.
type lab struct {
	*testing.T
	net   *network
	nodes map[string]*testNode
	list  []Peer
	log   *logBuffer

	mu sync.Mutex // guards which nodes run against clients on other goroutines
}

// testNode is a machine: its disk, and the process that runs on it.
type testNode struct {
	*Cluster // nil: it does not run
	lab      *lab
	cfg      Config
	boot     string
	disk     *crashfs.FS
	server   *grpc.Server
}

// run calls a test with a lab whose founding list has these nodes, none of them
// started.
func run(t *testing.T, test func(*lab), names ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{T: t, net: newNetwork(), nodes: map[string]*testNode{}, log: new(logBuffer)}
		for _, name := range names {
			l.list = append(l.list, Peer{name, name + ":7400"})
		}
		t.Cleanup(l.end)
		test(l)
	})
}

// running calls a test with a cluster that has been founded.
func running(t *testing.T, test func(*lab), names ...string) {
	t.Helper()
	run(t, func(l *lab) {
		l.start(names...)
		l.settle(names...)
		test(l)
	}, names...)
}

func (l *lab) end() {
	l.net.heal()
	for _, n := range l.nodes {
		n.stop()
	}
	if l.Failed() {
		l.Log(l.log.String())
	}
}

// node is a machine of the lab, with an empty disk the first time.
func (l *lab) node(name string) *testNode {
	if l.nodes[name] == nil {
		l.nodes[name] = &testNode{lab: l, boot: "boot 1", disk: crashfs.New(), cfg: Config{
			Name: name, List: l.list, Address: name + ":7400", Dir: "meta",
		}}
	}
	return l.nodes[name]
}

// start starts nodes.
func (l *lab) start(names ...string) {
	l.Helper()
	for _, name := range names {
		if err := l.node(name).start(); err != nil {
			l.Fatalf("start %s: %v", name, err)
		}
	}
}

func (n *testNode) start() error {
	l := n.lab
	c, err := Start(n.cfg, World{
		FS: n.disk, Clock: labClock{}, Log: slog.New(slog.NewTextHandler(l.log, nil)).With("node", n.cfg.Name),
		Rand: rand.Reader, Boot: n.boot, Dial: l.net.dialer(n.cfg.Name),
		Disk: func() (capacity, free int64) { return 1 << 40, 1 << 39 },
	})
	if err != nil {
		return err
	}
	server := grpc.NewServer(ServerOptions()...)
	c.Register(server)
	listener := l.net.listen(n.cfg.Name, n.cfg.Address)
	go server.Serve(listener) //nolint:errcheck // ends with the node
	n.server = server
	n.runs(c)
	return nil
}

// runs notes what runs on a node; nil: nothing does.
func (n *testNode) runs(c *Cluster) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.Cluster = c
}

// any is one of the nodes that run, another one for each number; nil: none does.
// Clients on any goroutine may use it.
func (l *lab) any(i int) *Cluster {
	l.mu.Lock()
	defer l.mu.Unlock()
	var up []*Cluster
	for _, n := range l.up() {
		up = append(up, n.Cluster)
	}
	if len(up) == 0 {
		return nil
	}
	return up[i%len(up)]
}

// stop ends the process of a node in order.
func (n *testNode) stop() {
	if n.Cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := n.Stop(ctx); err != nil && n.Status().Phase != Failed {
		n.lab.Errorf("stop %s: %v", n.cfg.Name, err)
	}
	n.server.Stop()
	n.runs(nil)
}

// kill ends the process of a node at once; what it wrote is kept.
func (n *testNode) kill() { n.abandon(n.disk.CrashMode(crashfs.AllKept, 0)) }

// powerOff ends the machine of a node at once: what was not durable may be lost,
// and the others are not told. It has booted again when it is started.
func (n *testNode) powerOff(seed uint64) {
	others := n.lab.others(n.cfg.Name)
	n.lab.net.part([]string{n.cfg.Name}, others)
	disk := n.disk.Crash(seed)
	n.abandon(disk)
	n.lab.net.set([]string{n.cfg.Name}, others, func(l link) {
		delete(n.lab.net.cuts, l)
		delete(n.lab.net.cuts, link{l.to, l.from})
	})
	n.boot += "+"
}

// abandon lets the process end without network and disk.
func (n *testNode) abandon(disk *crashfs.FS) {
	n.disk.PowerOff()
	n.disk = disk
	n.lab.net.drop(n.cfg.Name)
	old := n.Cluster
	n.runs(nil)
	n.server.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	old.Stop(ctx) //nolint:errcheck // its disk is gone
}

// wipe empties the disk of a node that does not run.
func (n *testNode) wipe() { n.disk = crashfs.New() }

func (l *lab) others(name string) []string {
	return slices.DeleteFunc(sortedKeys(l.nodes), func(o string) bool { return o == name })
}

// up are the nodes that run, by name.
func (l *lab) up() []*testNode {
	var up []*testNode
	for _, name := range sortedKeys(l.nodes) {
		if n := l.nodes[name]; n.Cluster != nil {
			up = append(up, n)
		}
	}
	return up
}

// patience is how long the lab waits for something before the test has failed.
const patience = 30 * time.Second

// wait waits until something is the case, and fails the test if it never is.
func (l *lab) wait(what string, is func() bool) time.Duration {
	l.Helper()
	return l.waitFor(patience, what, is)
}

// waitFor is wait with the time that it may take; it returns the time that it took.
func (l *lab) waitFor(most time.Duration, what string, is func() bool) time.Duration {
	l.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > most {
			for _, n := range l.up() {
				l.Logf("%+v", n.Status())
			}
			l.Fatalf("after %v: not %s", most, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// settle waits until these nodes are members that know the same leader.
func (l *lab) settle(names ...string) time.Duration {
	l.Helper()
	return l.wait(fmt.Sprintf("all of %v members with one leader", names), func() bool {
		leader := ""
		for _, name := range names {
			st := l.node(name).Status()
			if st.Phase != Member || st.Leader == "" || leader != "" && st.Leader != leader {
				return false
			}
			leader = st.Leader
		}
		return true
	})
}

// leader is the node that leads, as most of those that run see it.
func (l *lab) leader() *testNode {
	l.Helper()
	var leader *testNode
	l.wait("a leader", func() bool {
		votes := map[string]int{}
		for _, n := range l.up() {
			st := n.Status()
			votes[st.Leader]++
			if st.Leader == n.cfg.Name && 2*len(st.Voters) > 0 && votes[st.Leader] > 0 {
				leader = n
			}
		}
		return leader != nil && 2*votes[leader.cfg.Name] > len(l.up())
	})
	return leader
}

// follower is a node that runs, and does not lead.
func (l *lab) follower() *testNode {
	l.Helper()
	leader := l.leader()
	for _, n := range l.up() {
		if n != leader && slices.Contains(n.Status().Voters, n.cfg.Name) {
			return n
		}
	}
	l.Fatal("no follower runs")
	return nil
}

// ask has a node carry out a command within a time.
func (n *testNode) ask(d time.Duration, command *metapb.Command) (*metapb.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return n.Do(ctx, command)
}

// do has a node carry out a command that must succeed.
func (n *testNode) do(command *metapb.Command) *metapb.Result {
	n.lab.Helper()
	r, err := n.ask(patience, command)
	if err != nil {
		n.lab.Fatalf("node %s: %v", n.cfg.Name, err)
	}
	if r.Code != metapb.Code_CODE_OK {
		n.lab.Fatalf("node %s: %v: %s; %s", n.cfg.Name, r.Code, r.Text, r.Advice)
	}
	return r
}

// view reads linearizably.
func (n *testNode) view(f func(*metadata.State)) {
	n.lab.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Read(ctx, f); err != nil {
		n.lab.Fatalf("node %s: read: %v", n.cfg.Name, err)
	}
}

// record is what the quorum records of a node, as n reads it.
func (n *testNode) record(name string) *metapb.Node {
	n.lab.Helper()
	var r *metapb.Node
	n.view(func(s *metadata.State) { r = s.Node(name) })
	return r
}

// hasVolume tells whether a volume exists, as n reads it.
func (n *testNode) hasVolume(name string) bool {
	n.lab.Helper()
	found := false
	n.view(func(s *metadata.State) { found = s.Volume(name) != nil })
	return found
}

// create is the command that makes a volume of one copy.
func create(name string) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_CreateVolume{CreateVolume: &metapb.CreateVolume{
		Name: name, SizeBytes: 1 << 20, Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: 1},
	}}}
}

func noQuorum(err error) bool {
	var e *NoQuorumError
	return errors.As(err, &e)
}

// labClock is the clock of the bubble.
type labClock struct{ env.SystemClock }

// Now implements env.Clock.
func (labClock) Now() time.Duration { return time.Since(time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)) }

// logBuffer keeps what the nodes log, for a test that fails.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
