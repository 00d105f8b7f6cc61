package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

const (
	attemptLeast = 20 * time.Millisecond  // before a command is tried again
	attemptMost  = 200 * time.Millisecond // likewise
	readTime     = time.Second            // for one attempt of a read: its messages can get lost
)

// Do has the quorum carry out a command and returns the answer, which may be a
// refusal: look at its code. Whichever node is asked, the leader decides; over
// changes of the leader Do tries again until ctx ends. The command takes effect
// at most once, also when the caller repeats it with the same request id. Fields
// left empty (request, by, node, time) are filled in; the caller's command is not
// changed.
//
// A *NoQuorumError comes when there has been no leader, or no contact to a
// majority, for Config.NoQuorum; a *RefusedError when this node may not take
// part; ErrStopped when it stops; else the error of ctx. With an error the
// outcome is unknown: the command may take effect later.
func (c *Cluster) Do(ctx context.Context, command *metapb.Command) (*metapb.Result, error) {
	command = c.sign(command)
	if size := proto.Size(command); size > metadata.MaxCommandBytes {
		return nil, fmt.Errorf("a command of %d bytes is larger than %d", size, metadata.MaxCommandBytes)
	}
	var result *metapb.Result
	err := c.persist(ctx, func(ctx context.Context, s *metadata.Server, leader uint64) (err error) {
		if s.Status().ID == leader {
			result, err = s.Propose(ctx, command)
		} else {
			result, err = c.forward(ctx, leader, command)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// Read calls f with a state that reflects every command that was answered before
// Read was called. f must be short and must not keep the state, though the
// records in it are its to keep. Errors are those of Do.
func (c *Cluster) Read(ctx context.Context, f func(*metadata.State)) error {
	var server *metadata.Server
	err := c.persist(ctx, func(ctx context.Context, s *metadata.Server, _ uint64) error {
		ctx, cancel := context.WithTimeout(ctx, readTime)
		defer cancel()
		server = s
		return s.ReadIndex(ctx)
	})
	if err != nil {
		return err
	}
	server.View(f)
	return nil
}

// attempt is one try at something, with a leader that is known.
type attempt func(ctx context.Context, s *metadata.Server, leader uint64) error

// persist tries until that succeeds, or there is no hope, or ctx ends.
func (c *Cluster) persist(ctx context.Context, try attempt) error {
	pause := backoff{least: attemptLeast, most: attemptMost}
	var last error // of the latest attempt
	for {
		if s, leader := c.leader(); leader != 0 {
			err := c.tryWith(ctx, s, leader, try)
			var refused *refusedTransfer
			if err == nil || errors.Is(err, ErrStopped) || errors.As(err, &refused) {
				return err
			}
			last = err
		}
		if err := c.hopeless(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("%w (%w)", ctx.Err(), last)
			}
			return ctx.Err()
		case <-c.ctx.Done():
			return ErrStopped
		case <-c.after(pause.next()):
		}
	}
}

// tryWith makes one attempt. It is cut short when the leader that it counts on
// is not the leader any more, when there is no hope left, or when this node stops.
func (c *Cluster) tryWith(ctx context.Context, s *metadata.Server, leader uint64, try attempt) error {
	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o := &ongoing{leader, cancel}
	c.mu.Lock()
	c.attempts[o] = true
	c.mu.Unlock()
	err := try(attempt, s, leader)
	c.mu.Lock()
	delete(c.attempts, o)
	c.mu.Unlock()
	if err != nil && attempt.Err() != nil && ctx.Err() == nil {
		return context.Cause(attempt)
	}
	return err
}

// ongoing is an attempt that is under way.
type ongoing struct {
	leader uint64
	cancel context.CancelCauseFunc
}

// cutShort ends attempts that have become pointless.
func (c *Cluster) cutShort(leader uint64, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for o := range c.attempts {
		switch {
		case why != nil:
			o.cancel(why)
		case o.leader != leader:
			o.cancel(errLeaderChanged)
		}
	}
}

var errLeaderChanged = errors.New("the leader changed meanwhile")

// leader is the Raft member and the leader it knows of; 0: it knows none, or the
// node does not take part.
func (c *Cluster) leader() (*metadata.Server, uint64) {
	c.mu.Lock()
	s, running := c.server, c.phase.running()
	c.mu.Unlock()
	if s == nil || !running {
		return nil, 0
	}
	return s, s.Status().Leader
}

// forward has the leader carry out a command.
func (c *Cluster) forward(ctx context.Context, leader uint64, command *metapb.Command) (*metapb.Result, error) {
	p, client, route := c.way(leader)
	if client == nil {
		return nil, errNoWay(leader)
	}
	response, err := client.Propose(ctx, &api.ProposeRequest{Route: route, Command: command})
	if err != nil {
		return nil, fmt.Errorf("leader %s: %w", p.name, readable(err))
	}
	if response.Result == nil {
		return nil, fmt.Errorf("node %s no longer leads", p.name)
	}
	return response.Result, nil
}

func errNoWay(leader uint64) error {
	return fmt.Errorf("there is no connection to the leader (Raft id %d)", leader)
}

// way is the open connection to the node of a Raft id; nil: there is none.
func (c *Cluster) way(id uint64) (*peer, api.PeerServiceClient, *api.Route) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		if p.id == id && p.client != nil {
			return p, p.client, p.route
		}
	}
	return nil, nil, nil
}

// sign returns a copy of a command with who asks filled in.
func (c *Cluster) sign(command *metapb.Command) *metapb.Command {
	command = proto.CloneOf(command)
	if len(command.Request) == 0 {
		command.Request = c.newRequest()
	}
	if command.By == "" {
		command.By = "node " + c.cfg.Name
	}
	if command.Node == "" {
		command.Node = c.cfg.Name
	}
	if command.Time == 0 {
		command.Time = c.world.Clock.Wall().UnixNano()
	}
	return command
}

// newRequest is a request id that nobody else uses: this run and a number.
func (c *Cluster) newRequest() []byte {
	id := binary.BigEndian.AppendUint64(nil, c.incarnation)
	return binary.BigEndian.AppendUint64(id, c.requests.Add(1))
}

// hopeless is why nothing can be decided here now and soon; nil: it can, or it is
// too early to tell.
func (c *Cluster) hopeless() error {
	if c.ctx.Err() != nil {
		return ErrStopped
	}
	if err := c.refusal(); err != nil {
		return err
	}
	c.mu.Lock()
	since := c.now() - c.quorate
	failed := c.phase == Failed
	c.mu.Unlock()
	if since < c.cfg.NoQuorum && !failed {
		return nil
	}
	status := c.Status()
	e := &NoQuorumError{Have: status.Have, Need: status.Need, Voters: len(status.Voters), Missing: status.Missing}
	switch {
	case status.Waiting != "" && status.Phase != Registering:
		e.Waiting = fmt.Sprintf("is %s: %s", status.Phase, status.Waiting)
	case status.Have >= status.Need && status.Leader == "":
		e.Waiting = fmt.Sprintf("has known no leader for %v", since.Round(100*time.Millisecond))
	}
	return e
}
