package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"blkd/blockdev"
	"blkd/internal/cluster"
	"blkd/internal/forward"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// exports offers every volume of the cluster to NBD clients on this node: itself
// where it is the primary, else by passing requests on to the node that is. A
// client stays connected when the volume moves, unless this node lost it without
// having handed it over: then its connections are closed, because what is in
// them may be old.
type exports struct {
	m *member
	// direct serves other nodes, with the volumes that this node is primary of.
	// They come over mutual TLS, or over loopback.
	direct *nbd.Server

	reconciling sync.Mutex

	mu       sync.Mutex
	volumes  map[string]*exported
	sessions map[sessionID]*session
	changed  chan struct{} // closed when a volume is served here, or no more
	stopping bool
}

// exported is one volume.
type exported struct {
	e    *exports
	name string
	id   uint64
	own  sessionID

	// Guarded by exports.mu.
	dev        *forward.Device
	local      blockdev.Device // while this node is primary
	remote     net.Conn        // to the primary that requests are passed on to
	primary    string          // who that is,
	generation uint64          // and in which generation
	stays      context.Context // ends when either changes, and move ends it
	move       context.CancelFunc
	size       int64
}

// sessionID names the connections of one node for one volume: of those with the
// same number only the newest counts.
type sessionID [16]byte

// session is a connection of another node.
type session struct {
	conn net.Conn
	done chan struct{} // everything that came over it has ended
}

func newExports(m *member) *exports {
	return &exports{m: m, direct: nbd.NewServer(nbd.Options{Logger: m.node.log}),
		volumes: map[string]*exported{}, sessions: map[sessionID]*session{}, changed: make(chan struct{})}
}

// run follows the records.
func (e *exports) run() {
	for {
		changed := e.m.cluster.Changed()
		if e.m.cluster.Status().Phase == cluster.Member {
			e.reconcile()
		}
		select {
		case <-e.m.node.stopping.Done():
			return
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// findTime bounds the search for a volume that this node does not know.
const findTime = 2 * time.Second

// find exports a volume that the quorum has and this node has not heard of yet: it may
// have been created a moment ago over another one.
func (e *exports) find(name string) {
	ctx, cancel := context.WithTimeout(e.m.node.stopping, findTime)
	defer cancel()
	known := false
	if err := e.m.cluster.Read(ctx, func(s *metadata.State) { known = s.Volume(name) != nil }); err == nil && known {
		e.reconcile()
	}
}

// reconcile exports what is recorded, and nothing else. When it returns, that is done.
func (e *exports) reconcile() {
	e.reconciling.Lock()
	defer e.reconciling.Unlock()
	var records []*metapb.Volume
	e.m.cluster.Local(func(s *metadata.State) { records = s.Volumes() })
	known := map[string]bool{}
	for _, r := range records {
		known[r.Name] = true
		e.follow(r)
	}
	e.mu.Lock()
	var gone []*exported
	for name, v := range e.volumes {
		if !known[name] {
			gone = append(gone, v)
			delete(e.volumes, name)
		}
	}
	e.mu.Unlock()
	for _, v := range gone {
		e.m.node.nbd.RemoveExport(v.name)
		v.dev.Close()
	}
}

// follow takes a record in. When it names another primary or generation, the
// connection to the old one is broken off, so that requests go to the new one.
func (e *exports) follow(r *metapb.Volume) {
	e.mu.Lock()
	v := e.volumes[r.Name]
	if v != nil && v.id != r.Id { // another volume of that name
		delete(e.volumes, r.Name)
		e.mu.Unlock()
		v.dev.Close()
		e.follow(r)
		return
	}
	fresh := v == nil
	if fresh {
		v = &exported{e: e, name: r.Name, id: r.Id}
		rand.Read(v.own[:]) // never fails
		v.dev = v.device()
		v.stays, v.move = context.WithCancel(context.Background())
		e.volumes[r.Name] = v
	}
	if v.size != r.SizeBytes {
		v.size = r.SizeBytes
		v.cut() // it knows the size of before
	}
	if v.generation != r.Generation || v.primary != r.Primary {
		v.primary, v.generation = r.Primary, r.Generation
		v.cut()
		v.move()
		v.stays, v.move = context.WithCancel(context.Background())
		e.wake()
	}
	dev := v.dev
	e.mu.Unlock()
	if fresh {
		e.offer(v.name, dev)
	}
}

// wake lets those look again who wait for a primary. It holds mu.
func (e *exports) wake() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// cut breaks the connection to another node off. It holds mu.
func (v *exported) cut() {
	if v.remote != nil {
		v.remote.Close()
		v.remote = nil
	}
}

func (v *exported) device() *forward.Device {
	return forward.New(forward.Config{Connect: v.connect, Size: v.length, Moved: func(err error) bool {
		return errors.Is(err, blockdev.ErrClosed) || errors.Is(err, nbd.ErrConnectionLost)
	}})
}

func (v *exported) length() int64 {
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	return v.size
}

// offer exports a volume to clients.
func (e *exports) offer(name string, dev blockdev.Device) {
	if err := e.m.node.nbd.SetExport(nbd.Export{Name: name, Device: dev, HangUp: true}); err != nil {
		e.m.node.log.Error("volume is not exported", "volume", name, "err", err)
	}
}

// serve takes the device of a generation of which this node is the primary.
func (e *exports) serve(name string, dev blockdev.Device) {
	if err := e.direct.SetExport(nbd.Export{Name: name, Device: dev, HangUp: true}); err != nil {
		e.m.node.log.Error("volume is not served to other nodes", "volume", name, "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.volumes[name]; v != nil {
		v.local = dev
	} else {
		e.m.node.log.Debug("a volume is served before its record was seen", "volume", name)
	}
	e.wake()
}

// withdraw forgets it; requests that come from now on are passed on. With hangup,
// clients of this node are disconnected and what they have asked for is dropped:
// it is not known how old it is. It does not wait.
func (e *exports) withdraw(name string, hangup bool) {
	e.mu.Lock()
	v := e.volumes[name]
	var old *forward.Device
	if v != nil {
		v.local = nil
		if hangup && !e.stopping {
			old, v.dev = v.dev, v.device()
			old.Drop()
		}
	}
	e.mu.Unlock()
	e.m.node.serving.Go(func() {
		e.direct.RemoveExport(name)
		if old != nil {
			e.offer(name, v.dev)
			old.Close()
		}
	})
}

// keep offers a branch to clients of this node, read-only; nil: no longer.
func (e *exports) keep(name string, dev blockdev.Device) {
	if dev == nil {
		e.m.node.nbd.RemoveExport(name)
		return
	}
	if err := e.m.node.nbd.SetExport(nbd.Export{Name: name, Device: dev, ReadOnly: true, HangUp: true}); err != nil {
		e.m.node.log.Error("branch is not exported", "branch", name, "err", err)
	}
}

// device finds the export of a volume; nil: there is none.
func (e *exports) device(name string) blockdev.Device {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.volumes[name]; v != nil {
		return v.dev
	}
	return nil
}

// connect finds the primary of the volume: this node, or another one.
func (v *exported) connect(ctx context.Context) (blockdev.Device, error) {
	e := v.e
	for {
		e.mu.Lock()
		local, primary, stays, changed := v.local, v.primary, v.stays, e.changed
		e.mu.Unlock()
		switch {
		case local != nil:
			return local, nil
		case primary != "" && primary != e.m.node.cfg.NodeName:
			return v.dial(ctx, stays, primary)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// dial connects to the volume on another node, as long as that stays primary: one that
// cannot be heard would hold it until the attempt times out.
func (v *exported) dial(ctx, stays context.Context, primary string) (blockdev.Device, error) {
	address := ""
	v.e.m.cluster.Local(func(s *metadata.State) {
		if n := s.Node(primary); n != nil {
			address = n.Address
		}
	})
	if address == "" {
		return nil, fmt.Errorf("node %s has no recorded address", primary)
	}
	ctx, cancel := context.WithTimeout(ctx, dataTime)
	defer cancel()
	defer context.AfterFunc(stays, cancel)()
	client, err := nbd.Dial(ctx, "nbd://"+address+"/"+v.name, nbd.DialOptions{
		MaxRequests: 1024, HandshakeTimeout: dataTime,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := v.e.m.dialData(ctx, primary, address, forClients)
			if err != nil {
				return nil, err
			}
			if _, err := conn.Write(v.own[:]); err != nil {
				conn.Close()
				return nil, err
			}
			return conn, v.use(conn, primary)
		},
	})
	if err != nil {
		return nil, err
	}
	return client, nil
}

// use notes a connection, so that it can be cut.
func (v *exported) use(conn net.Conn, primary string) error {
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	if v.primary != primary || v.e.stopping {
		conn.Close()
		return fmt.Errorf("node %s is no longer primary of volume %s", primary, v.name)
	}
	v.cut()
	v.remote = conn
	return nil
}

// accept serves a connection of another node that passes requests on. An older
// connection of the same session is ended first, with all that came over it: what
// the other node sends again must not be overtaken by it.
func (e *exports) accept(conn net.Conn) {
	var id sessionID
	if err := conn.SetReadDeadline(time.Now().Add(dataTime)); err != nil {
		conn.Close()
		return
	}
	if _, err := io.ReadFull(conn, id[:]); err != nil {
		conn.Close()
		return
	}
	own := &session{conn: conn, done: make(chan struct{})}
	defer close(own.done)
	e.mu.Lock()
	if e.stopping {
		e.mu.Unlock()
		conn.Close()
		return
	}
	old := e.sessions[id]
	e.sessions[id] = own
	e.mu.Unlock()
	if old != nil {
		old.conn.Close()
		<-old.done
	}
	e.direct.ServeConn(conn)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sessions[id] == own {
		delete(e.sessions, id)
	}
}

// stop ends all connections between nodes.
func (e *exports) stop() {
	e.mu.Lock()
	e.stopping = true
	var devices []*forward.Device
	for _, v := range e.volumes {
		v.cut()
		devices = append(devices, v.dev)
	}
	for _, s := range e.sessions {
		s.conn.Close()
	}
	e.mu.Unlock()
	e.direct.Close()
	for _, d := range devices {
		d.Close()
	}
}
