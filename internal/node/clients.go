package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"blkd/blockdev"
	"blkd/internal/cluster"
	"blkd/internal/mutant"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// client is the device of one NBD connection (S10). One that shows a token acts for
// the attachment of it. One without shares an attachment with all others of this
// node: it only reads until it first wants to change something, and then the node
// claims the volume for it. That is a commit of the quorum, unless the node holds the
// volume already, and it ends what other nodes may still have of such clients: one
// that moves from node to node by itself cannot be overtaken by what it had sent
// through the node before (I15).
type client struct {
	v        *exported
	hangUp   func()
	readOnly bool
	held     bool   // without a token: it acts for this node's clients
	seen     uint64 // the number of the attachment when it came

	passage atomic.Pointer[passage]
	claim   sync.Mutex
}

// open admits a connection, or says who has attached the volume.
func (v *exported) open(o nbd.Opening) (blockdev.Device, error) {
	t, err := parseToken(o.Parameters)
	if err != nil {
		return nil, err
	}
	c := &client{v: v, hangUp: o.HangUp, readOnly: t.readOnly}
	now, shared := v.recorded()
	number := t.number
	switch {
	case t.from.Client != 0:
		return nil, fmt.Errorf("export parameter %s is for nodes of the cluster, at the port that they have for each other; leave it out", sessionParameter)
	case t.number != 0 && t.id != v.id:
		return nil, fmt.Errorf("the token is of an earlier volume named %s: attach this one", v.name)
	case t.number != 0 && t.number < now.Since:
		return nil, fmt.Errorf("fenced: the attachment %d of volume %s was taken over; it is now attached by %s (%d)", t.number, v.name, orNobody(now.Holder), now.Number)
	case t.number != 0 && t.number < now.Number:
		return nil, fmt.Errorf("the session %d of volume %s has ended: %s has begun session %d", t.number, v.name, now.Holder, now.Number)
	case t.number != 0 || t.readOnly:
	case shared:
		number = now.Number
	case now.Holder != "" && !metapb.IsClients(now.Holder):
		return nil, fmt.Errorf("volume %s is attached by %s (%d); to read it all the same, use %s;%s, to take it over: blkctl attach %s --takeover", v.name, now.Holder, now.Number, v.name, readOnlyParameter, v.name)
	default:
		c.seen = now.Number
	}
	c.passage.Store(v.passage(number))
	v.e.mu.Lock()
	v.clients[c] = struct{}{}
	v.e.mu.Unlock()
	return c, nil
}

// openTime is how long a client that comes waits for the quorum to say who holds the
// volume. Without it, what this node has heard has to do: if that is old, the client
// is disconnected when it writes.
const openTime = 500 * time.Millisecond

// recorded tells who holds the volume, and whether it is shared.
func (v *exported) recorded() (*metapb.Attachment, bool) {
	ctx, cancel := context.WithTimeout(v.gone, openTime)
	defer cancel()
	var r *metapb.Volume
	if err := v.e.m.cluster.Read(ctx, func(s *metadata.State) { r = s.Volume(v.name) }); err == nil && r.GetId() == v.id {
		return r.Attachment, r.Shared
	}
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	return v.attachment, v.shared
}

// number is that of the attachment that the client acts for; 0: of none.
func (c *client) number() uint64 { return c.passage.Load().number }

// Size implements blockdev.Device.
func (c *client) Size() int64 { return c.v.length() }

// ReadOnly implements blockdev.Device.
func (c *client) ReadOnly() bool { return c.readOnly }

// Submit implements blockdev.Device. It waits for the quorum when it has to claim the
// volume.
func (c *client) Submit(batch []*blockdev.Request) {
	p := c.passage.Load()
	if p.number == 0 && !c.readOnly && mutates(batch) {
		var err error
		if p, err = c.claimed(); err != nil {
			c.v.e.m.node.log.Warn("clients are disconnected", "volume", c.v.name, "err", err)
			for _, r := range batch {
				r.Finish(fmt.Errorf("%w: %v", blockdev.ErrClosed, err))
			}
			return
		}
	}
	p.dev.Submit(batch)
}

func mutates(batch []*blockdev.Request) bool {
	for _, r := range batch {
		if r.Op.Mutates() {
			return true
		}
	}
	return false
}

// claimed is the way for a client without a token that wants to write.
func (c *client) claimed() (*passage, error) {
	c.claim.Lock()
	defer c.claim.Unlock()
	if p := c.passage.Load(); p.number != 0 {
		return p, nil
	}
	number, err := c.v.claims.claim(c.v, c.seen)
	if err != nil {
		return nil, err
	}
	c.held = true
	p := c.v.passage(number)
	c.passage.Store(p)
	return p, nil
}

// Extents implements blockdev.Device.
func (c *client) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	return c.passage.Load().dev.Extents(off, n, emit)
}

// Close implements blockdev.Device: the connection has ended.
func (c *client) Close() error {
	v := c.v
	v.e.mu.Lock()
	delete(v.clients, c)
	v.e.mu.Unlock()
	if c.held {
		v.claims.users.Add(-1)
	}
	return nil
}

// claims is this node's hold of a volume, for clients without a token. From the
// number first on, all up to last were given to this node and to nobody else.
type claims struct {
	mu          sync.Mutex   // held while the quorum is asked
	first, last uint64       // 0: none yet
	users       atomic.Int64 // clients that write
}

// claimPause is how long a claim waits before it asks again.
const claimPause = 100 * time.Millisecond

// errMoved tells that a client without a token has to come again: other clients
// have got the volume since it came.
var errMoved = errors.New("the volume was given to others since these clients came")

// claim returns the number under which this node's clients write, for one that came
// when number seen was on record. If others had the volume since, what the client has
// asked for may be old. It counts a user.
func (k *claims) claim(v *exported, seen uint64) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ours := seen >= k.first && seen <= k.last
	if !ours {
		number, err := v.hold(seen)
		if err != nil {
			return 0, err
		}
		k.first, k.last = seen, number
	}
	k.users.Add(1)
	return k.last, nil
}

// hold gives the volume to this node's clients, if the number on record is the
// expected one, and returns the next number. It waits for the quorum as long as the
// volume is exported.
func (v *exported) hold(expected uint64) (uint64, error) {
	m := v.e.m
	for {
		changed := m.cluster.Changed()
		var r *metapb.Volume
		m.cluster.Local(func(s *metadata.State) { r = s.Volume(v.name) })
		switch {
		case r == nil || r.Id != v.id:
			return 0, errMoved
		case r.Attachment.Number < expected: // this node has not heard yet
		case r.Attachment.Number > expected && !mutant.On(mutant.GatewayClaimAny), r.Shared, r.Attachment.Holder != "" && !metapb.IsClients(r.Attachment.Holder):
			return 0, errMoved
		default:
			result, err := m.cluster.Do(v.gone, &metapb.Command{Op: &metapb.Command_Attach{Attach: &metapb.Attach{
				Volume: v.name, Generation: r.Generation, Number: r.Number,
				Holder: metapb.ClientsOf(m.node.cfg.NodeName), Takeover: true,
			}}})
			var refused *cluster.RefusedError
			switch {
			case err == nil && result.Code == metapb.Code_CODE_OK:
				return result.Volume.Attachment.Number, nil
			case err == nil && result.Code != metapb.Code_CODE_CONFLICT:
				return 0, fmt.Errorf("the quorum refuses: %s", result.Text)
			case errors.As(err, &refused), errors.Is(err, cluster.ErrStopped):
				return 0, err
			}
		}
		select {
		case <-v.gone.Done():
			return 0, context.Cause(v.gone)
		case <-changed:
		case <-time.After(claimPause):
		}
	}
}
