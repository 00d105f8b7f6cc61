package replicas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"blkd/metadata"
	"blkd/replication"
)

const (
	greetTime = 3 * time.Second // for both sides to say who they are
	dialLeast = 50 * time.Millisecond
	dialMost  = time.Second
)

// setLinks dials the members with a later name; those with an earlier one dial
// this node, so that there is one connection between two replicas.
func (r *replica) setLinks(members []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := map[string]bool{}
	for _, node := range members {
		if node <= r.m.cfg.Node {
			continue
		}
		want[node] = true
		if r.links[node] == nil && r.ctx.Err() == nil {
			ctx, cancel := context.WithCancel(r.ctx)
			r.links[node] = cancel
			r.work.Go(func() { r.dial(ctx, node) })
		}
	}
	for node, cancel := range r.links {
		if !want[node] {
			cancel()
			delete(r.links, node)
		}
	}
}

// dial keeps a connection to another member open.
func (r *replica) dial(ctx context.Context, node string) {
	pause, last := dialLeast, ""
	for ctx.Err() == nil {
		began := time.Now()
		err := r.connect(ctx, node)
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != last {
			r.log.Info("no connection to another replica", "node", node, "err", err)
			last = text
		}
		if pause = min(2*pause, dialMost); time.Since(began) > dialMost {
			pause, last = dialLeast, ""
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// connect opens one connection and serves it until it breaks.
func (r *replica) connect(ctx context.Context, node string) error {
	address := ""
	r.m.cfg.Cluster.Local(func(s *metadata.State) {
		if n := s.Node(node); n != nil {
			address = n.Address
		}
	})
	if address == "" {
		return fmt.Errorf("node %s has no recorded address", node)
	}
	greet, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	conn, err := r.m.cfg.Dial(greet, node, address)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	own := r.m.hello(r.id, node)
	version, err := r.introduce(conn, &own)
	if err != nil {
		conn.Close()
		return err
	}
	r.log.Debug("connected", "node", node)
	return r.volume.Serve(conn, replication.NodeID(node), version)
}

// introduce says who this side is and hears who the other is.
// It returns the version of the protocol to speak.
func (r *replica) introduce(conn net.Conn, own *replication.Hello) (version uint8, err error) {
	if err := conn.SetDeadline(time.Now().Add(greetTime)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(replication.AppendHello(nil, own)); err != nil {
		return 0, err
	}
	peer, refusal, err := readGreeting(conn)
	switch {
	case err != nil:
		return 0, err
	case refusal != nil:
		return 0, refusal
	}
	version, refusal = replication.Agree(own, peer)
	if refusal != nil {
		return 0, refusal
	}
	return version, conn.SetDeadline(time.Time{})
}

func (m *Manager) hello(volume uint64, to string) replication.Hello {
	return replication.Hello{
		Min: replication.WireVersionMin, Max: replication.WireVersion, Cluster: m.cluster, Volume: volume,
		From: replication.NodeID(m.cfg.Node), FromIncarnation: replication.Incarnation(m.incarnation), To: replication.NodeID(to),
	}
}

// readGreeting reads the first frame of a connection, and nothing behind it.
func readGreeting(conn net.Conn) (*replication.Hello, *replication.Refusal, error) {
	buf := make([]byte, 0, 512)
	for {
		hello, refusal, n, err := replication.DecodeGreeting(buf)
		if err != nil || n > 0 {
			return hello, refusal, err
		}
		var b [1]byte // once per connection, and what follows belongs to others
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return nil, nil, fmt.Errorf("the other side left before it said who it is: %w", err)
		}
		buf = append(buf, b[0])
	}
}

// Accept takes a connection over that another node has opened, behind the
// preamble and TLS. Peer is the name that the node has proven; empty: none was
// asked for. It returns when the connection has ended.
func (m *Manager) Accept(conn net.Conn, peer string) {
	defer conn.Close()
	node, r, version, err := m.admit(conn, peer)
	if err != nil {
		m.cfg.Log.Info("a data connection was refused", "from", conn.RemoteAddr(), "err", err)
		return
	}
	m.mu.Lock()
	if m.stopping {
		m.mu.Unlock()
		return
	}
	m.accepted[conn] = true
	m.mu.Unlock()
	err = r.volume.Serve(conn, node, version)
	m.mu.Lock()
	delete(m.accepted, conn)
	m.mu.Unlock()
	r.log.Debug("disconnected", "node", node, "err", err)
}

// admit finds out who connects to which replica, and which version of the protocol to
// speak.
func (m *Manager) admit(conn net.Conn, peer string) (node replication.NodeID, r *replica, version uint8, err error) {
	if err := conn.SetDeadline(time.Now().Add(greetTime)); err != nil {
		return "", nil, 0, err
	}
	hello, _, err := readGreeting(conn)
	if err != nil {
		return "", nil, 0, err
	}
	if hello == nil {
		return "", nil, 0, errors.New("the other side began with a refusal")
	}
	r, version, refusal := m.judge(hello, peer)
	if refusal != nil {
		conn.Write(replication.AppendRefusal(nil, refusal)) //nolint:errcheck // it is gone anyway
		return "", nil, 0, refusal
	}
	own := m.hello(hello.Volume, string(hello.From))
	if _, err := conn.Write(replication.AppendHello(nil, &own)); err != nil {
		return "", nil, 0, err
	}
	return hello.From, r, version, conn.SetDeadline(time.Time{})
}

// judge compares what the other side says with what is known here.
func (m *Manager) judge(hello *replication.Hello, peer string) (r *replica, version uint8, refusal *replication.Refusal) {
	m.mu.Lock()
	r, registered := m.replicas[hello.Volume], m.incarnation != 0
	m.mu.Unlock()
	switch {
	case !registered || m.isStopping():
		return nil, 0, &replication.Refusal{Code: replication.RefusedBusy, Text: "node " + m.cfg.Node + " is starting or stopping"}
	case peer != "" && string(hello.From) != peer:
		return nil, 0, &replication.Refusal{Code: replication.RefusedNode,
			Text: fmt.Sprintf("the certificate is that of node %s, and the connection claims to be of node %s", peer, hello.From)}
	}
	own := m.hello(hello.Volume, string(hello.From))
	if version, refusal = replication.Agree(&own, hello); refusal != nil {
		return nil, 0, refusal
	}
	if r == nil {
		return nil, 0, &replication.Refusal{Code: replication.RefusedVolume,
			Text: fmt.Sprintf("node %s has no replica of volume %d", m.cfg.Node, hello.Volume)}
	}
	return r, version, nil
}
