package cli

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"

	"blkd/internal/api"
	"blkd/internal/attach"
	"blkd/metadata/metapb"
)

// attachCluster is the cluster as an agent needs it, through any of the nodes that
// were named, or the socket.
type attachCluster struct {
	*app
	volume, holder, reason string
}

// askTime bounds a question of an agent, which it repeats.
const askTime = 5 * time.Second

// hedge is how long a node may take to answer before another one is asked as well: it
// may be standing still.
const hedge = 300 * time.Millisecond

// Attach implements attach.Cluster. The request takes effect once, whichever node
// answers.
func (c *attachCluster) Attach(ctx context.Context, renew, takeover bool) (*metapb.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req := &api.AttachRequest{Request: newRequest(c.reason), Name: c.volume, Holder: c.holder, Renew: renew, Takeover: takeover,
		Machine: identity("/etc/machine-id"), Boot: identity("/proc/sys/kernel/random/boot_id")}
	nodes := c.nodes
	if len(nodes) == 0 {
		nodes = []string{""}
	}
	type answer struct {
		record *metapb.Volume
		err    error
	}
	answers := make(chan answer, len(nodes))
	asked := 0
	next := func() {
		address := nodes[asked]
		asked++
		go func() {
			record, err := c.attachAt(ctx, address, req)
			answers <- answer{record, err}
		}()
	}
	next()
	var last error
	for answered := 0; answered < len(nodes); {
		var patience <-chan time.Time
		if asked < len(nodes) {
			patience = time.After(hedge)
		}
		select {
		case <-patience:
			next()
		case x := <-answers:
			answered++
			if x.err == nil {
				return x.record, nil
			}
			last = x.err
			if e := explain(ctx, x.err); e.Code == Refused || e.Code == NotFound {
				return nil, fmt.Errorf("%w: %w", attach.ErrRefused, e)
			}
			if asked < len(nodes) {
				next()
			}
		}
	}
	return nil, last
}

// identity is what a file tells machines, or their boots, apart by, and not the very id;
// 0: it does not.
func identity(file string) uint64 {
	id, err := os.ReadFile(file)
	if err != nil || len(id) == 0 {
		return 0
	}
	sum := sha256.Sum256(append([]byte("blkd attachment "), id...))
	return binary.LittleEndian.Uint64(sum[:])
}

// attachAt asks one node.
func (c *attachCluster) attachAt(ctx context.Context, address string, req *api.AttachRequest) (*metapb.Volume, error) {
	conn, err := c.dialNode(address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	v, err := api.NewVolumeServiceClient(conn).Attach(ctx, req)
	return v.GetRecord(), called(err)
}

// Follow implements attach.Cluster: it asks all nodes at once, because one that stands
// still tells nothing.
func (c *attachCluster) Follow(ctx context.Context, f func(*metapb.Volume, []string)) {
	c.follow(ctx, func(answer *api.FollowResponse, asked string) { f(answer.Record, primaryAddresses(answer, asked)) })
}

// follow calls f with every answer that has a record, and whom it is from.
func (c *attachCluster) follow(ctx context.Context, f func(answer *api.FollowResponse, asked string)) {
	if len(c.nodes) == 0 {
		c.poll(ctx, "", f)
		return
	}
	for _, address := range c.nodes {
		go c.poll(ctx, address, f)
	}
	<-ctx.Done()
}

const (
	// pollTime is a little longer than a node waits for news.
	pollTime  = 12 * time.Second
	pollPause = 200 * time.Millisecond
)

// poll asks one node again and again.
func (c *attachCluster) poll(ctx context.Context, address string, f func(answer *api.FollowResponse, asked string)) {
	known := uint64(0)
	for ctx.Err() == nil {
		answer, err := c.ask(ctx, address, known)
		if err == nil && answer.Record != nil {
			known = answer.Record.Number
			f(answer, address)
			continue
		}
		known = 0
		select {
		case <-ctx.Done():
		case <-time.After(pollPause):
		}
	}
}

func (c *attachCluster) ask(ctx context.Context, address string, known uint64) (*api.FollowResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	conn, err := c.dialNode(address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return api.NewVolumeServiceClient(conn).Follow(ctx, &api.FollowRequest{Name: c.volume, Known: known})
}

func (c *attachCluster) dialNode(address string) (*grpc.ClientConn, error) {
	if address == "" {
		return api.Dial(c.socketPath())
	}
	creds, err := c.credentials()
	if err != nil {
		return nil, err
	}
	return api.DialNode(address, creds)
}

// primaryAddresses are where this host reaches the NBD server of a volume's primary.
// A node that listens on loopback is on the machine on which asked was reached.
func primaryAddresses(answer *api.FollowResponse, asked string) []string {
	var sockets, addresses []string
	for _, n := range answer.Nodes {
		if n.Name != answer.Record.Primary {
			continue
		}
		for _, x := range n.Nbd {
			if path, ok := strings.CutPrefix(x, "unix:"); ok {
				if _, err := os.Stat(path); err == nil {
					sockets = append(sockets, path)
				}
				continue
			}
			host, port, err := net.SplitHostPort(x)
			if err != nil {
				continue
			}
			if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() && asked != "" {
				if h, _, err := net.SplitHostPort(asked); err == nil {
					x = net.JoinHostPort(h, port)
				}
			}
			addresses = append(addresses, x)
		}
	}
	return append(sockets, addresses...)
}

// notifyReady tells systemd, if it has started this process.
func notifyReady() error {
	_, err := daemon.SdNotify(false, daemon.SdNotifyReady)
	if err != nil {
		return fmt.Errorf("sd_notify: %w", err)
	}
	return nil
}
