package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"blkd/internal/api"
	"blkd/internal/version"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// running tells whether a node in this phase exchanges Raft messages.
func (p Phase) running() bool { return p == Registering || p == Member }

// run brings the node from its start to membership. It ends earlier when the
// node stops, is refused or fails.
func (c *Cluster) run() {
	for _, step := range []func() error{c.enter, c.confirm, c.register} {
		err := step()
		var refused *RefusedError
		switch {
		case err == nil:
			continue
		case c.ctx.Err() != nil:
		case errors.As(err, &refused):
			c.setRefused(refused)
		default:
			c.setFailed(err)
		}
		return
	}
	c.setPhase(Member, nil)
	c.work.Go(c.reportDisk)
}

// setPhase moves on, or says what the phase waits for.
func (c *Cluster) setPhase(p Phase, waits *obstacle) {
	var o obstacle
	if waits != nil {
		o = *waits
	}
	c.mu.Lock()
	if c.phase == Refused || c.phase == Failed {
		c.mu.Unlock()
		return
	}
	changed, news := c.phase != p, c.obstacle.text != o.text
	c.phase, c.obstacle = p, o
	c.mu.Unlock()
	switch {
	case news && o.text != "":
		c.log.Info("this node is "+p.String(), "it", o.text, "advice", o.advice)
	case changed:
		c.log.Info("this node is "+p.String(), "cluster", c.clusterText())
	}
	if changed || news {
		c.turn.fire()
	}
	if changed && p.running() { // the others can connect now
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, p := range c.peers {
			p.tryNow()
		}
	}
}

func (c *Cluster) clusterText() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%016x", c.identity.Cluster)
}

// setRefused ends this node's part for good.
func (c *Cluster) setRefused(r *RefusedError) {
	c.mu.Lock()
	first := c.phase != Refused && c.phase != Failed
	if first {
		c.phase, c.refused, c.obstacle = Refused, r, obstacle{r.Text, r.Advice}
	}
	server := c.server
	c.mu.Unlock()
	if !first {
		return
	}
	c.log.Error("this node takes no part in the cluster", "why", r.Text, "advice", r.Advice)
	if server != nil {
		server.Stop()
	}
	c.watchPeers()
	c.turn.fire()
}

// setFailed ends this node's part until it is started anew.
func (c *Cluster) setFailed(err error) {
	c.mu.Lock()
	first := c.phase != Refused && c.phase != Failed
	if first {
		c.phase, c.obstacle = Failed, obstacle{text: err.Error(), advice: "repair what the message names, then restart blkd"}
	}
	c.mu.Unlock()
	if first {
		c.log.Error("this node has left the quorum until it is restarted", "err", err)
		c.turn.fire()
	}
}

// enter gives a blank node its place in a cluster, and opens the Raft member.
func (c *Cluster) enter() error {
	if id := c.identityNow(); id.Cluster != 0 {
		c.setPhase(Starting, nil)
		return c.open(id.Id, nil)
	}
	phase := c.firstPhase()
	pause := backoff{least: retryLeast, most: retryMost}
	for {
		turn := c.turn.next()
		next := plot(c.greeting(), c.identityNow().Tried, c.cfg.List, c.answers())
		switch {
		case next.found != nil:
			return c.found(next.found)
		case next.join != nil:
			why, err := c.join(next.join)
			if why == nil {
				return err
			}
			c.setPhase(Joining, why)
			turn = c.after(pause.next())
		default:
			c.setPhase(phase, next.wait)
		}
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-turn:
		}
	}
}

// firstPhase is where a node begins.
func (c *Cluster) firstPhase() Phase {
	switch {
	case c.identityNow().Cluster != 0:
		return Starting
	case c.inList(c.cfg.Name):
		return Founding
	default:
		return Joining
	}
}

// answers is what the others said last.
func (c *Cluster) answers() map[string]answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]answer{}
	for name, p := range c.peers {
		all[name] = p.answer
	}
	return all
}

// found makes this node a founder. The first entry is written before the
// identity: a node that stops in between founds again, and finds what it wrote.
func (c *Cluster) found(f *metapb.FoundCluster) error {
	i := slices.IndexFunc(f.Founders, func(f *metapb.Founder) bool { return f.Name == c.cfg.Name })
	request := make([]byte, 16)
	copy(request, fmt.Sprintf("%016x", f.Cluster))
	command := &metapb.Command{Request: request, By: "--cluster", Reason: "founding", Op: &metapb.Command_FoundCluster{FoundCluster: f}}
	c.backup.begin(command)
	if err := c.open(f.Founders[i].Id, command); err != nil {
		return err
	}
	if err := c.belong(f.Cluster, f.Founders[i].Id, 0); err != nil {
		return err
	}
	c.dropBackup()
	return nil
}

// join makes this node a member of a cluster that exists. The obstacle is why
// that did not work now.
func (c *Cluster) join(inv *invitation) (*obstacle, error) {
	if inv.claim {
		if why := c.claim(inv); why != nil {
			return why, nil
		}
	}
	if err := c.open(inv.id, nil); err != nil {
		return nil, err
	}
	return nil, c.belong(inv.cluster, inv.id, inv.registered)
}

// claim registers this node through a member, which ties its name to this data
// directory: of two empty ones only one can win.
func (c *Cluster) claim(inv *invitation) *obstacle {
	c.mu.Lock()
	p := c.peers[inv.via]
	c.mu.Unlock()
	if p == nil {
		return &obstacle{text: "waits for node " + inv.via}
	}
	conn, _, err := c.dial(p.name, p.address())
	if err != nil {
		return &obstacle{text: err.Error()}
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	command := c.sign(&metapb.Command{Reason: "join", Op: &metapb.Command_RegisterNode{RegisterNode: c.registration()}})
	client := api.NewPeerServiceClient(conn)
	g, err := p.hello(ctx, client, c.greeting()) // the claim needs the number of its run
	if err != nil {
		return &obstacle{text: fmt.Sprintf("asked node %s to let it in: %v", inv.via, err)}
	}
	route := &api.Route{Cluster: inv.cluster, FromIncarnation: c.incarnation, To: g.Id, ToIncarnation: g.Incarnation}
	response, err := client.Propose(ctx, &api.ProposeRequest{Route: route, Command: command})
	switch r := response.GetResult(); {
	case err != nil:
		return &obstacle{text: fmt.Sprintf("asked node %s to let it in: %v", inv.via, readable(err))}
	case r.GetCode() != metapb.Code_CODE_OK:
		return &obstacle{r.GetText(), r.GetAdvice()}
	default:
		inv.id, inv.registered = r.GetNode().GetId(), r.Index
		return nil
	}
}

// belong notes on the disk which cluster this node belongs to, and the log entry
// by which this run is registered already, if it is; 0: it is not.
func (c *Cluster) belong(cluster, id, registered uint64) error {
	known := uint64(0)
	c.serverNow().View(func(s *metadata.State) { known = s.Info().Cluster })
	if known != 0 && known != cluster {
		return &RefusedError{
			Text:   fmt.Sprintf("the data directory holds the beginning of cluster %016x, but the other nodes founded %016x without it", known, cluster),
			Advice: "stop this node, empty its data directory and start it again; then, if it is asked for: blkctl node replace " + c.cfg.Name,
		}
	}
	return c.editIdentity(func(own *metapb.Identity) {
		own.Cluster, own.Id = cluster, id
		if registered != 0 {
			c.confirmRun(own, registered)
		}
	})
}

// confirmRun changes an identity to say that this run is registered, by the log
// entry of that index.
func (c *Cluster) confirmRun(id *metapb.Identity, index uint64) {
	id.Incarnation, id.Tried, id.Registered = c.incarnation, nil, index
	id.Boot, id.Clean, id.IoError = c.world.Boot, false, false
}

// open opens the Raft member of an id. It exchanges no messages yet.
func (c *Cluster) open(id uint64, found *metapb.Command) error {
	server, err := metadata.NewServer(metadata.ServerConfig{
		CoreConfig: metadata.CoreConfig{
			ID: id, Log: c.db, Founders: found, Backup: c.backup.content(), Logger: c.log,
			ElectionTick: int(c.cfg.Election / c.cfg.Tick),
		},
		Clock: c.world.Clock, Tick: c.cfg.Tick, Send: c.send,
	})
	if err != nil {
		return err
	}
	last, err := c.db.LastIndex()
	if err != nil {
		server.Stop()
		return err
	}
	c.mu.Lock()
	c.server, c.firstIndex = server, last
	c.mu.Unlock()
	c.watchPeers()
	c.news.fire()
	return nil
}

// confirm waits until enough others have said that they know nothing later of
// this node than its own disk does: a majority of the voters, itself included,
// and every other node asked once.
func (c *Cluster) confirm() error {
	c.setPhase(Starting, nil)
	for {
		turn := c.turn.next()
		waits := c.unconfirmed()
		if waits == nil {
			return nil
		}
		c.setPhase(Starting, waits)
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-turn:
		}
		if err := c.refusal(); err != nil {
			return err
		}
	}
}

func (c *Cluster) unconfirmed() *obstacle {
	var voters []string
	c.serverNow().View(func(s *metadata.State) { voters = names(s, s.Info().Voters) })
	c.mu.Lock()
	defer c.mu.Unlock()
	have, need := 0, len(voters)/2+1
	if len(voters) == 0 {
		need = 1 // it has not received the state yet; any member will do
	}
	var missing []string
	for _, name := range sortedKeys(c.peers) {
		a := c.peers[name].answer
		counts := len(voters) == 0 || slices.Contains(voters, name)
		switch {
		case a.greeting != nil && a.refusal == nil && a.greeting.Cluster == c.identity.Cluster && counts:
			have++
		case !a.asked || counts:
			missing = append(missing, describe(name, a))
		}
	}
	if slices.Contains(voters, c.cfg.Name) {
		have++
	}
	asked := !slices.ContainsFunc(sortedKeys(c.peers), func(name string) bool { return !c.peers[name].answer.asked })
	if have >= need && asked {
		return nil
	}
	return &obstacle{text: fmt.Sprintf("has %d of the %d voters needed; waits for %s", have, need, strings.Join(missing, ", "))}
}

// names are the names of Raft ids, in their order.
func names(s *metadata.State, ids []uint64) []string {
	var list []string
	for _, id := range ids {
		if n := s.NodeByID(id); n != nil {
			list = append(list, n.Name)
		} else {
			list = append(list, fmt.Sprintf("Raft id %d", id))
		}
	}
	return list
}

// register records this run with the quorum. It waits for the quorum as long as
// it takes.
func (c *Cluster) register() error {
	c.setPhase(Registering, nil)
	if c.identityNow().Incarnation == c.incarnation {
		return c.received() // it registered when it joined
	}
	for {
		result, err := c.Do(c.ctx, &metapb.Command{Reason: "start", Op: &metapb.Command_RegisterNode{RegisterNode: c.registration()}})
		switch {
		case c.ctx.Err() != nil || c.refusal() != nil:
			return errors.Join(c.ctx.Err(), c.refusal())
		case err != nil:
			c.setPhase(Registering, &obstacle{text: err.Error()})
		case result.Code != metapb.Code_CODE_OK:
			return &RefusedError{Text: result.Text, Advice: result.Advice}
		default:
			if err := c.editIdentity(func(id *metapb.Identity) { c.confirmRun(id, result.Index) }); err != nil {
				return err
			}
			return c.received()
		}
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-c.after(retryMost):
		}
	}
}

// received waits until the quorum's records have reached this node, as they are with
// its run registered. Those of before must not be acted on: by them it may still be a
// member that was let go and invited again since, and would destroy, when it reads of
// the one, what it was sent after the other.
func (c *Cluster) received() error {
	for {
		changed, turn := c.Changed(), c.turn.next()
		known := false
		c.Local(func(s *metadata.State) { known = s.Node(c.cfg.Name).GetIncarnation() == c.incarnation })
		if known {
			return nil
		}
		c.setPhase(Registering, &obstacle{text: "waits for the records of the cluster"})
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-changed:
		case <-turn:
		}
		if err := c.refusal(); err != nil {
			return err
		}
	}
}

// refusal is why this node was refused; nil: it was not.
func (c *Cluster) refusal() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		return nil
	}
	return c.refused
}

// registration is what this node says of its new run.
func (c *Cluster) registration() *metapb.RegisterNode {
	id := c.identityNow()
	capacity, free := c.world.Disk()
	tried := slices.DeleteFunc(slices.Clone(id.Tried), func(i uint64) bool { return i == c.incarnation })
	return &metapb.RegisterNode{
		Name: c.cfg.Name, Disk: id.Disk, Incarnation: c.incarnation, Previous: id.Incarnation, Tried: tried,
		Clean: id.Clean, IoError: id.IoError, Boot: c.world.Boot, PreviousBoot: id.Boot,
		Address: c.cfg.Address, Nbd: c.cfg.NBD, Labels: c.cfg.Labels, Witness: c.cfg.Witness,
		CapacityBytes: capacity, FreeBytes: free,
		VersionMin: versionMin, VersionMax: versionMax, Build: version.Get().Version,
	}
}
