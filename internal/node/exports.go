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
	"blkd/replication"
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
	begun    uint64        // passages, by this run of the node
	changed  chan struct{} // closed when a volume is served here, or no more
	stopping bool
}

// exported is one volume.
type exported struct {
	e       *exports
	name    string
	id      uint64
	claims  claims
	gone    context.Context // ends when it is exported no more
	discard context.CancelFunc

	// Guarded by exports.mu.
	passages   map[uint64]*passage // by attachment number; 0: of clients that only read
	clients    map[*client]struct{}
	local      opener          // while this node is primary
	primary    string          // who that is,
	generation uint64          // and in which generation
	stays      context.Context // ends when either changes, and move ends it
	move       context.CancelFunc
	size       int64
	shared     bool
	attachment *metapb.Attachment
}

// opener makes the device of a generation for an attachment, and for the client and
// session that number its mutations.
type opener func(attachment uint64, from blockdev.Origin) blockdev.Device

// passage carries the requests of the clients of one attachment to the primary.
type passage struct {
	v      *exported
	number uint64
	own    sessionID
	from   blockdev.Origin // who its mutations are from: this run of the node, and which of its passages
	dev    *forward.Device
	remote net.Conn // guarded by exports.mu
}

// sessionID names the connections of one passage: of those with the same number
// only the newest counts.
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
		v.close()
	}
}

// follow takes a record in. When it names another primary or generation, the
// connections to the old one are broken off, so that requests go to the new one.
func (e *exports) follow(r *metapb.Volume) {
	e.mu.Lock()
	v := e.volumes[r.Name]
	if v != nil && v.id != r.Id { // another volume of that name
		delete(e.volumes, r.Name)
		e.mu.Unlock()
		v.close()
		e.follow(r)
		return
	}
	fresh := v == nil
	if fresh {
		v = &exported{e: e, name: r.Name, id: r.Id, passages: map[uint64]*passage{}, clients: map[*client]struct{}{}}
		v.gone, v.discard = context.WithCancel(e.m.node.stopping)
		v.stays, v.move = context.WithCancel(context.Background())
		e.volumes[r.Name] = v
	}
	moved := v.generation != r.Generation || v.primary != r.Primary
	resized := v.size != r.SizeBytes
	v.size, v.shared, v.attachment = r.SizeBytes, r.Shared, r.GetAttachment()
	v.primary, v.generation = r.Primary, r.Generation
	ended := v.supersede()
	if moved || resized { // a connection knows the size of before
		for _, p := range v.passages {
			p.cut()
		}
	}
	if moved {
		v.move()
		v.stays, v.move = context.WithCancel(context.Background())
	}
	e.wake()
	e.mu.Unlock()
	closeAll(ended)
	if fresh {
		e.offer(v)
	}
}

// wake lets those look again who wait for a primary or a record. It holds mu.
func (e *exports) wake() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// supersede ends the passages of earlier sessions of the client that holds the
// volume: it hangs up on them, because an error would reach the application. It
// returns what is left to be closed. It holds mu.
func (v *exported) supersede() (ended []*passage) {
	for c := range v.clients {
		if n := c.number(); n != 0 && n < v.attachment.Number && n >= v.attachment.Since {
			c.hangUp()
		}
	}
	for n, p := range v.passages {
		if n != 0 && n < v.attachment.Number && n >= v.attachment.Since {
			p.dev.Drop()
			p.cut()
			delete(v.passages, n)
			ended = append(ended, p)
		}
	}
	return ended
}

func closeAll(list []*passage) {
	for _, p := range list {
		p.dev.Close()
	}
}

// close ends all that goes through the volume.
func (v *exported) close() {
	v.discard()
	v.e.mu.Lock()
	list := v.dropAll()
	v.e.mu.Unlock()
	closeAll(list)
}

// dropAll drops every passage. It holds mu.
func (v *exported) dropAll() (list []*passage) {
	for n, p := range v.passages {
		p.dev.Drop()
		p.cut()
		delete(v.passages, n)
		list = append(list, p)
	}
	return list
}

// cut breaks the connection to another node off. It holds mu.
func (p *passage) cut() {
	if p.remote != nil {
		p.remote.Close()
		p.remote = nil
	}
}

// passage is the way of an attachment's requests to the primary.
func (v *exported) passage(number uint64) *passage {
	run := v.e.m.cluster.Status().Incarnation
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	p := v.passages[number]
	if p == nil {
		v.e.begun++
		p = &passage{v: v, number: number, from: blockdev.Origin{Client: run, Session: v.e.begun}}
		rand.Read(p.own[:]) // never fails
		p.dev = forward.New(forward.Config{Connect: p.connect, Size: v.length, Moved: func(err error) bool {
			// It was checked against the volume's size: who takes it for smaller is of before.
			return errors.Is(err, blockdev.ErrClosed) || errors.Is(err, nbd.ErrConnectionLost) || errors.Is(err, blockdev.ErrRange)
		}})
		if v.e.stopping || v.gone.Err() != nil || v.passed(number) {
			p.dev.Drop()
		}
		v.passages[number] = p
	}
	return p
}

// passed tells whether there is a passage of a later attachment: a newer session would
// end that of it. It holds mu.
func (v *exported) passed(number uint64) bool {
	for n := range v.passages {
		if number != 0 && n > number {
			return true
		}
	}
	return false
}

func (v *exported) length() int64 {
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	return v.size
}

// offer exports a volume to clients; those that use it are disconnected.
func (e *exports) offer(v *exported) {
	err := e.m.node.nbd.SetExport(nbd.Export{Name: v.name, Device: v.passage(0).dev, HangUp: true, Open: v.open})
	if err != nil {
		e.m.node.log.Error("volume is not exported", "volume", v.name, "err", err)
	}
}

// serve takes the devices of a generation of which this node is the primary.
func (e *exports) serve(name string, open func(attachment uint64, from blockdev.Origin) blockdev.Device) {
	err := e.direct.SetExport(nbd.Export{Name: name, Device: open(0, blockdev.Origin{}), HangUp: true, Numbered: true, Open: func(o nbd.Opening) (blockdev.Device, error) {
		t, err := parseToken(o.Parameters)
		if err != nil {
			return nil, err
		}
		return open(t.number, t.from), nil
	}})
	if err != nil {
		e.m.node.log.Error("volume is not served to other nodes", "volume", name, "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.volumes[name]; v != nil {
		v.local = open
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
	var old []*passage
	if v != nil {
		v.local = nil
		if hangup = hangup && !e.stopping; hangup {
			old = v.dropAll()
		}
	}
	e.mu.Unlock()
	e.m.node.serving.Go(func() {
		e.direct.RemoveExport(name)
		if v != nil && hangup {
			e.offer(v)
		}
		closeAll(old)
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

// device finds the export of a volume, for reading; nil: there is none.
func (e *exports) device(name string) blockdev.Device {
	e.mu.Lock()
	v := e.volumes[name]
	e.mu.Unlock()
	if v == nil {
		return nil
	}
	return v.passage(0).dev
}

// connect finds the primary of the volume: this node, or another one.
func (p *passage) connect(ctx context.Context) (blockdev.Device, error) {
	v, e := p.v, p.v.e
	for {
		e.mu.Lock()
		local, primary, stays, changed := v.local, v.primary, v.stays, e.changed
		fenced := p.number != 0 && p.number < v.attachment.Since
		ended := p.number != 0 && p.number < v.attachment.Number // it is about to be dropped
		e.mu.Unlock()
		switch {
		case fenced:
			return fencedDevice{v}, nil
		case ended:
		case local != nil:
			return local(p.number, p.from), nil
		case primary != "" && primary != e.m.node.cfg.NodeName:
			return p.dial(ctx, stays, primary)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// fencedDevice answers the requests of a client that has lost the volume.
type fencedDevice struct{ v *exported }

// Size implements blockdev.Device.
func (d fencedDevice) Size() int64 { return d.v.length() }

// ReadOnly implements blockdev.Device.
func (d fencedDevice) ReadOnly() bool { return false }

// Submit implements blockdev.Device.
func (d fencedDevice) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		r.Finish(replication.ErrFenced)
	}
}

// Extents implements blockdev.Device.
func (d fencedDevice) Extents(int64, int64, func(blockdev.Extent) bool) error {
	return replication.ErrFenced
}

// Close implements blockdev.Device.
func (d fencedDevice) Close() error { return nil }

// dial connects to the volume on another node, as long as that stays primary: one that
// cannot be heard would hold it until the attempt times out.
func (p *passage) dial(ctx, stays context.Context, primary string) (blockdev.Device, error) {
	m := p.v.e.m
	address := ""
	m.cluster.Local(func(s *metadata.State) {
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
	client, err := nbd.Dial(ctx, "nbd://"+address+"/"+token{id: p.v.id, number: p.number, from: p.from}.of(p.v.name), nbd.DialOptions{
		MaxRequests: 1024, Numbered: true, HandshakeTimeout: dataTime,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := m.dialData(ctx, primary, address, forClients)
			if err != nil {
				return nil, err
			}
			if _, err := conn.Write(p.own[:]); err != nil {
				conn.Close()
				return nil, err
			}
			return conn, p.use(conn, primary)
		},
	})
	if err != nil {
		return nil, err
	}
	if has, is := client.Size(), p.v.length(); has < is { // it has not heard of the new size yet
		client.Close()
		return nil, fmt.Errorf("node %s takes volume %s for %d bytes large, and it has %d", primary, p.v.name, has, is)
	}
	return client, nil
}

// use notes a connection, so that it can be cut.
func (p *passage) use(conn net.Conn, primary string) error {
	p.v.e.mu.Lock()
	defer p.v.e.mu.Unlock()
	if p.v.primary != primary || p.v.passages[p.number] != p || p.v.e.stopping {
		conn.Close()
		return fmt.Errorf("node %s is no longer primary of volume %s", primary, p.v.name)
	}
	p.cut()
	p.remote = conn
	return nil
}

// accept serves a connection of another node that passes requests on. An older
// connection of the same passage is ended first, with all that came over it: what
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
	var list []*passage
	for _, v := range e.volumes {
		list = append(list, v.dropAll()...)
	}
	for _, s := range e.sessions {
		s.conn.Close()
	}
	e.mu.Unlock()
	e.direct.Close()
	closeAll(list)
}
