// Command endpoints shows that load balancers follow a volume from node to node:
// HAProxy and keepalived, with the configurations of deploy/examples, ask the HTTP pages
// of the nodes. It promotes another node, kills the primary and freezes the primary;
// after each it waits until both have gone to the new primary, and to nobody else, and
// reads through both what was written before. A primary that wakes up must not call
// itself primary, not even once.
//
// The nodes run in network namespaces that the program makes itself and removes; it
// needs root, iproute2, curl, haproxy and keepalived.
package main

import (
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"blkd/blockdev"
	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/nbd"
)

const (
	volume     = "pgdata"
	volumeSize = 64 << 20
	vip        = "10.0.0.100" // of keepalived.conf
)

func main() {
	// The processes are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	blkd := flag.String("blkd", "", "blkd `program` to test")
	examples := flag.String("examples", "deploy/examples", "`directory` of haproxy.cfg and keepalived.conf")
	flag.Parse()
	if *blkd == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *blkd, *examples); err != nil {
		fmt.Fprintln(os.Stderr, "endpoints:", err)
		os.Exit(1)
	}
}

// rig is a cluster with keepalived beside each node, and HAProxy in a namespace of its own.
type rig struct {
	dir       string
	network   *clustertest.Network
	cluster   *clustertest.Cluster
	volume    *clustertest.Volume
	balancers []*clustertest.Process
	written   byte // what the first block is full of
}

func run(ctx context.Context, blkd, examples string) error {
	dir, err := os.MkdirTemp("", "endpoints-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	network, err := clustertest.NewNetwork("blke", 4)
	if err != nil {
		return err
	}
	defer network.Close()
	r := &rig{dir: dir, network: network}
	if r.cluster, err = clustertest.New(clustertest.Config{Blkd: blkd, Dir: dir, Names: []string{"n1", "n2", "n3"}, Network: network,
		Args: []string{"--nbd", "0.0.0.0:10809", "--metrics", "0.0.0.0:9650", "--store-log-size", "64MiB"}}); err != nil {
		return err
	}
	defer r.cluster.Close()
	if err := r.cluster.Start(ctx); err != nil {
		return err
	}
	if r.volume, err = r.cluster.CreateVolume(ctx, volume, volumeSize, r.cluster.Nodes[0], r.cluster.Nodes); err != nil {
		return err
	}
	defer r.stopBalancers()
	if err := r.startBalancers(examples); err != nil {
		return err
	}
	return r.story(ctx)
}

// story is what happens to the volume.
func (r *rig) story(ctx context.Context) error {
	first, err := r.volume.Dial(ctx, r.volume.Ask, nbd.DialOptions{})
	if err == nil {
		err = errors.Join(r.writeOn(first), first.Close(), r.follows(ctx, nil, "the start"))
	}
	if err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context, *clustertest.Node) error
		undo func(*clustertest.Node) error
	}{
		{"a promotion", r.promote, func(*clustertest.Node) error { return nil }},
		{"kill -9 of the primary", kill, (*clustertest.Node).Start},
		{"SIGSTOP of the primary", func(_ context.Context, n *clustertest.Node) error { return n.Pause() }, r.wake},
	} {
		if err := r.write(ctx); err != nil {
			return fmt.Errorf("before %s: %w", step.what, err)
		}
		primary, err := r.volume.Primary(ctx)
		if err != nil {
			return err
		}
		r.volume.Ask = other(r.cluster, primary)
		if err := step.do(ctx, primary); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if err := r.follows(ctx, primary, step.what); err != nil {
			return err
		}
		if err := step.undo(primary); err != nil {
			return fmt.Errorf("after %s: %w", step.what, err)
		}
		if err := r.volume.Level(ctx); err != nil {
			return err
		}
	}
	return nil
}

// other is a node other than one.
func other(c *clustertest.Cluster, than *clustertest.Node) *clustertest.Node {
	if c.Nodes[0] == than {
		return c.Nodes[1]
	}
	return c.Nodes[0]
}

func (r *rig) promote(ctx context.Context, from *clustertest.Node) error {
	_, err := api.NewVolumeServiceClient(from.Conn()).Promote(ctx, &api.PromoteRequest{
		Name: volume, From: from.Name, Request: clustertest.NewRequest()})
	return err
}

func kill(_ context.Context, n *clustertest.Node) error {
	n.Kill()
	return nil
}

// wake lets a primary go on that another one has replaced: it must know that at once.
func (r *rig) wake(n *clustertest.Node) error {
	if err := n.Resume(); err != nil {
		return err
	}
	for range 5 {
		out, err := exec.Command("ip", "netns", "exec", n.Namespace, "curl", "-s", "-w", " %{http_code}", "http://127.0.0.1:9650/primary/"+volume).Output()
		if err != nil {
			return fmt.Errorf("%s does not answer: %w", n.Name, err)
		}
		if !strings.HasSuffix(string(out), " 503") {
			return fmt.Errorf("%s was replaced while it stood still, and says: %s", n.Name, out)
		}
	}
	return nil
}

// follows waits until another node than before is primary, HAProxy and keepalived have
// gone to it and to nobody else, and what was written can be read through both.
func (r *rig) follows(ctx context.Context, before *clustertest.Node, what string) error {
	began := time.Now()
	var haproxy, keepalived time.Duration
	err := r.cluster.Until(ctx, func(ctx context.Context) error {
		primary, err := r.volume.Primary(ctx)
		switch {
		case err != nil:
			return err
		case primary == before:
			return fmt.Errorf("%s is primary still", primary.Name)
		}
		errProxy, errVIP := r.proxyIs(ctx, primary), r.vipIs(primary)
		if errProxy == nil && haproxy == 0 {
			haproxy = time.Since(began)
		}
		if errVIP == nil && keepalived == 0 {
			keepalived = time.Since(began)
		}
		return errors.Join(errProxy, errVIP)
	})
	if err == nil {
		err = r.cluster.Until(ctx, func(ctx context.Context) error {
			return errors.Join(r.read(ctx, "haproxy"), r.read(ctx, "vip"))
		})
	}
	if err != nil {
		for _, p := range r.balancers {
			err = fmt.Errorf("%w\n%s", err, p.Log())
		}
		return fmt.Errorf("after %s: %w", what, err)
	}
	fmt.Printf("%s: HAProxy has followed after %v, keepalived after %v\n", what, haproxy.Round(time.Millisecond), keepalived.Round(time.Millisecond))
	return nil
}

// proxyIs complains unless HAProxy uses one node only.
func (r *rig) proxyIs(ctx context.Context, n *clustertest.Node) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", r.socket("stats"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("show stat\n")); err != nil {
		return err
	}
	lines := csv.NewReader(conn)
	lines.FieldsPerRecord = -1
	var up []string
	for {
		line, err := lines.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		const proxy, server, status = 0, 1, 17
		if len(line) > status && line[proxy] == volume && strings.HasPrefix(line[server], "n") && strings.HasPrefix(line[status], "UP") {
			up = append(up, line[server])
		}
	}
	if len(up) != 1 || up[0] != n.Name {
		return fmt.Errorf("the primary is %s; HAProxy takes %v for it", n.Name, up)
	}
	return nil
}

// vipIs complains unless one node only has the floating address.
func (r *rig) vipIs(n *clustertest.Node) error {
	var holders []string
	for _, x := range r.cluster.Nodes {
		out, err := exec.Command("ip", "-n", x.Namespace, "-brief", "address", "show", "dev", "eth0").Output()
		if err != nil {
			return err
		}
		if strings.Contains(string(out), vip+"/") {
			holders = append(holders, x.Name)
		}
	}
	if len(holders) != 1 || holders[0] != n.Name {
		return fmt.Errorf("the primary is %s; the floating address is on %v", n.Name, holders)
	}
	return nil
}

// socket is where a front end of HAProxy listens: paths reach into namespaces.
func (r *rig) socket(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) dial(ctx context.Context, through string) (*nbd.Client, error) {
	return nbd.Dial(ctx, "nbd+unix:///"+volume+"?socket="+r.socket(through), nbd.DialOptions{HandshakeTimeout: 5 * time.Second})
}

func (r *rig) write(ctx context.Context) error {
	c, err := r.dial(ctx, "haproxy")
	if err != nil {
		return err
	}
	defer c.Close()
	return r.writeOn(c)
}

func (r *rig) writeOn(c *nbd.Client) error {
	r.written++
	return blockdev.WriteAt(c, pattern(r.written), 0, blockdev.FUA)
}

func (r *rig) read(ctx context.Context, through string) error {
	c, err := r.dial(ctx, through)
	if err != nil {
		return fmt.Errorf("through %s: %w", through, err)
	}
	defer c.Close()
	got := make([]byte, 4096)
	if err := blockdev.ReadAt(c, got, 0); err != nil {
		return fmt.Errorf("through %s: %w", through, err)
	}
	if string(got) != string(pattern(r.written)) {
		return fmt.Errorf("through %s: what was written is not there", through)
	}
	return nil
}

func pattern(b byte) []byte { return []byte(strings.Repeat(string(rune('0'+b)), 4096)) }

// startBalancers starts HAProxy in the namespace that has no node, and keepalived in
// the others. HAProxy listens on sockets of the file system besides, for this program.
func (r *rig) startBalancers(examples string) error {
	proxy, err := os.ReadFile(filepath.Join(examples, "haproxy.cfg"))
	if err != nil {
		return err
	}
	text := strings.Replace(string(proxy), "bind :10809\n", "bind :10809\n\tbind unix@"+r.socket("haproxy")+"\n", 1)
	text += fmt.Sprintf("\nglobal\n\tstats socket %s\n\nlisten vip\n\tmode tcp\n\tbind unix@%s\n\tserver vip %s:10809\n", r.socket("stats"), r.socket("vip"), vip)
	config := filepath.Join(r.dir, "haproxy.cfg")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	if out, err := exec.Command("haproxy", "-c", "-f", config).CombinedOutput(); err != nil {
		return fmt.Errorf("haproxy does not take %s: %w\n%s", config, err, out)
	}
	alive, err := filepath.Abs(filepath.Join(examples, "keepalived.conf"))
	if err != nil {
		return err
	}
	r.add("haproxy", r.network.Namespace(3), "haproxy", "-db", "-f", config)
	for _, n := range r.cluster.Nodes {
		pid := filepath.Join(r.dir, "keepalived-"+n.Name)
		r.add("keepalived-"+n.Name, n.Namespace, "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", alive,
			"--pid", pid+".pid", "--vrrp_pid", pid+".vrrp.pid")
	}
	for _, p := range r.balancers {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) add(name, namespace string, args ...string) {
	r.balancers = append(r.balancers, &clustertest.Process{Name: name, Namespace: namespace, Args: args, LogFile: filepath.Join(r.dir, name+".log")})
}

// stopBalancers ends them in order, for keepalived has children.
func (r *rig) stopBalancers() {
	for _, p := range r.balancers {
		if p.Runs() {
			p.Stop() //nolint:errcheck // the test is over
		}
	}
}
