package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"blkd/internal/api"
)

const (
	helloTime  = time.Second             // for a connection and an answer to Hello
	retryLeast = 50 * time.Millisecond   // before a connection is tried again
	retryMost  = time.Second             // likewise
	silentMost = 1500 * time.Millisecond // without an answer to a heartbeat, after which a connection is given up
)

// peer is another node: this node's connection to it, and what is known of it.
type peer struct {
	c    *Cluster
	name string
	out  *outbox
	poke chan struct{} // holds a token when a new attempt is worth it

	cancel context.CancelFunc

	// Guarded by c.mu.
	addresses   []string // the likely one first
	attempt     int      // which of them is next
	answer      answer
	id          uint64 // Raft id, as it says or the quorum recorded
	incarnation uint64 // of the run that is or was last connected to
	build       string
	client      api.PeerServiceClient // nil without streams
	route       *api.Route            // with client: from this run to its
	heard       time.Duration         // when its last heartbeat came in; 0: never
	beats       map[uint64]*beats     // by incarnation: the runs of it with an open stream to here
	applied     uint64                // furthest that Raft id has shown
	rtt         time.Duration
}

// beats is what a node hears of one run of another.
type beats struct {
	streams int           // open to here
	heard   time.Duration // when the last heartbeat came in
}

// run keeps a connection to the peer until ctx ends.
func (p *peer) run(ctx context.Context) {
	wait := backoff{least: retryLeast, most: retryMost}
	for ctx.Err() == nil {
		began := p.c.now()
		connected, err := p.session(ctx)
		p.lost(ctx, connected, err)
		if connected && p.c.now()-began > retryMost {
			wait.reset()
			continue // at once: is it only the connection, or the node?
		}
		select {
		case <-ctx.Done():
		case <-p.poke:
		case <-p.c.after(wait.next()):
		}
	}
}

// session is one connection: it ends when the connection does. It tells whether
// the streams were open.
func (p *peer) session(ctx context.Context) (connected bool, err error) {
	conn, refused, err := p.c.dial(p.name, p.address())
	if err != nil {
		return false, err
	}
	defer conn.Close()
	client := api.NewPeerServiceClient(conn)
	own := p.c.greeting()
	greeting, err := p.hello(ctx, client, own)
	if cause := refused(); cause != nil {
		p.c.refusedConnection(p.name)
		return false, cause
	}
	if err != nil {
		return false, err
	}
	route := route(own, greeting)
	if route == nil {
		return false, nil // one of the two did not take part yet
	}
	return true, p.streams(ctx, client, route, greeting)
}

// hello says to the peer who this node is and notes its answer.
func (p *peer) hello(ctx context.Context, client api.PeerServiceClient, own *api.Greeting) (*api.Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	response, err := client.Hello(ctx, &api.HelloRequest{Greeting: own})
	if err != nil {
		return nil, readable(err)
	}
	g := response.GetGreeting()
	if g.GetName() != p.name {
		return nil, fmt.Errorf("node %q answers there", g.GetName())
	}
	p.c.answered(p, g, response.Refusal)
	if r := response.Refusal; r != nil {
		return nil, &refusedByPeer{r}
	}
	return g, nil
}

// refusedByPeer says that the peer answered, and what.
type refusedByPeer struct{ refusal *api.Refusal }

func (e *refusedByPeer) Error() string { return "it refuses this node: " + e.refusal.Text }

// address is where the next attempt goes: the addresses in turn.
func (p *peer) address() string {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.addresses[p.attempt%len(p.addresses)]
}

// lost notes how an attempt or a connection ended.
func (p *peer) lost(ctx context.Context, connected bool, err error) {
	if ctx.Err() != nil {
		return
	}
	p.c.mu.Lock()
	p.client = nil
	var refused *refusedByPeer
	if err != nil && !errors.As(err, &refused) {
		p.attempt++
		p.answer = answer{asked: true, why: err.Error()}
	}
	p.c.mu.Unlock()
	p.c.turn.fire()
	if connected {
		p.c.log.Warn("the connection to a node ended", "peer", p.name, "err", err)
	}
}

// readable is an error of gRPC as people read it.
func readable(err error) error {
	if s, ok := status.FromError(err); ok {
		return errors.New(s.Message())
	}
	return err
}

// dial prepares a connection; the first call makes it. refused tells afterwards
// whether the other machine refused it.
func (c *Cluster) dial(name, address string) (conn *grpc.ClientConn, refused func() error, err error) {
	connect := c.world.Dial
	if connect == nil {
		connect = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	var last atomic.Pointer[error]
	credentials := insecure.NewCredentials()
	if c.world.Credentials != nil {
		credentials = c.world.Credentials(name)
	}
	conn, err = grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := connect(ctx, address)
			last.Store(&err)
			return conn, err
		}),
		grpc.WithTransportCredentials(credentials),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy())
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, func() error {
		if err := last.Load(); err != nil && errors.Is(*err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%s: connection refused", address)
		}
		return nil
	}, nil
}

// setAddresses replaces where the peer may be found, the most likely first.
func (p *peer) setAddresses(addresses ...string) {
	addresses = slices.DeleteFunc(addresses, func(a string) bool { return a == "" })
	if slices.Equal(addresses, p.addresses) {
		return
	}
	p.addresses, p.attempt = addresses, 0
}

// tryNow ends the pause before the next attempt.
func (p *peer) tryNow() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}
