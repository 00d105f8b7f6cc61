package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/internal/pki"
	"blkd/internal/replicas"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// runtimeTime is how long another node may take to tell about the volumes that it
// serves. What it does not tell is left out.
const runtimeTime = 700 * time.Millisecond

// peers are connections to the services of other nodes.
type peers struct {
	mu    sync.Mutex
	conns map[string]*peerConn
}

type peerConn struct {
	address string
	conn    *grpc.ClientConn
}

// peer is a client of another node's services for operators.
func (m *member) peer(node string) (api.VolumeServiceClient, error) {
	address := ""
	m.cluster.Local(func(s *metadata.State) {
		if n := s.Node(node); n != nil {
			address = n.Address
		}
	})
	m.peers.mu.Lock()
	defer m.peers.mu.Unlock()
	p := m.peers.conns[node]
	if p == nil || p.address != address {
		creds := pki.PlainClientCredentials()
		if m.certs != nil {
			creds = m.certs.ClientCredentials(node)
		}
		conn, err := api.DialNode(address, creds)
		if err != nil {
			return nil, err
		}
		if p != nil {
			p.conn.Close()
		}
		if m.peers.conns == nil {
			m.peers.conns = map[string]*peerConn{}
		}
		p = &peerConn{address, conn}
		m.peers.conns[node] = p
	}
	return api.NewVolumeServiceClient(p.conn), nil
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.conn.Close()
	}
	p.conns = nil
}

// gather asks the members of the view's volumes for what only they know.
func (m *member) gather(ctx context.Context, v *view, volumes []*metapb.Volume) {
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	v.runtime, v.logs = map[string]*api.Volume{}, map[string][]*api.ReplicaLog{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	asked := map[string]bool{}
	ask := func(node string) {
		if node == "" || asked[node] || v.node(node).GetHealth() == metapb.Health_HEALTH_DOWN {
			return
		}
		asked[node] = true
		asking.Go(func() {
			answer := m.told(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			for _, found := range answer.GetVolumes() {
				v.runtime[found.Name] = found
			}
			v.branches = append(v.branches, answer.GetBranches()...)
			v.logs[node] = answer.GetLogs()
		})
	}
	for _, r := range volumes {
		ask(r.Primary)
		for _, x := range r.Members {
			ask(x.Node)
		}
	}
	asking.Wait()
}

// told is what a node tells about the volumes that it serves and the branches that
// it keeps; nothing if it does not answer.
func (m *member) told(ctx context.Context, node string) *api.ListVolumesResponse {
	if node == m.node.cfg.NodeName {
		return m.tellHere()
	}
	client, err := m.peer(node)
	if err != nil {
		return nil
	}
	answer, err := client.List(ctx, &api.ListVolumesRequest{Local: true})
	if err != nil {
		m.node.log.Debug("a node does not tell about its volumes", "node", node, "err", err)
		return nil
	}
	return answer
}

func (m *member) tellHere() *api.ListVolumesResponse {
	return &api.ListVolumesResponse{Volumes: m.servedHere(), Branches: m.branchesHere(), Logs: m.logsHere()}
}

// logsHere tells how far the logs of this node's replicas reach.
func (m *member) logsHere() []*api.ReplicaLog {
	if m.replicas == nil {
		return nil
	}
	var all []*api.ReplicaLog
	for _, s := range m.replicas.Status() {
		if s.Failed == nil && !s.Waits {
			log := &api.ReplicaLog{Volume: s.Volume, DurableSeq: uint64(s.Durable), CommitSeq: uint64(s.Commit),
				End: &metapb.LogEnd{Generation: uint64(s.LastGen), Seq: uint64(s.Last)}, Recovering: s.Recovering, Empty: s.Empty}
			for _, n := range s.Missing {
				log.Missing = append(log.Missing, string(n))
			}
			all = append(all, log)
		}
	}
	return all
}

// servedHere describes the volumes that this node is primary of.
func (m *member) servedHere() []*api.Volume {
	if m.replicas == nil {
		return nil
	}
	var all []*api.Volume
	clients := m.node.connections()
	for _, s := range m.replicas.Status() {
		if s.Role == replication.Primary {
			all = append(all, m.describeServed(&s, clients[s.Volume]))
		}
	}
	return all
}

func (m *member) describeServed(s *replicas.Status, clients int) *api.Volume {
	out := &api.Volume{
		Name: s.Volume, SizeBytes: s.Store.SizeBytes, AllocatedBytes: s.Store.AllocatedBytes, Io: describeIO(s.Store),
		Clients: int32(clients), Serving: m.node.cfg.NodeName,
		Replicas: []*api.Replica{{Node: m.node.cfg.NodeName, Connected: true, HeldSeq: uint64(s.Last), DurableSeq: uint64(s.Durable)}},
		Lease:    &api.Lease{Held: s.CanRead},
	}
	for _, l := range m.node.listeners {
		out.Uris = append(out.Uris, uri(l, s.Volume, m.node.cfg.NBD.TLS == "required"))
	}
	if s.Settled {
		out.SettledAttachment = s.Attachment
	}
	if p := pourProblem(&s.Pour); p != nil {
		out.Problems = append(out.Problems, p)
	}
	out.Space = &api.Space{DataBytes: s.DataBytes, LogBytes: s.LogBytes}
	for _, p := range s.Peers {
		out.Replicas = append(out.Replicas, describePeer(s, &p))
		if left := durationpb.New(p.Lease); p.Lease > 0 && (out.Lease.Left == nil || p.Lease < out.Lease.Left.AsDuration()) {
			out.Lease.Left = left
		}
	}
	return out
}

// pourPatience is how long a log may wait for the shards before that is a problem.
const pourPatience = 5 * time.Second

// pourProblem is why the log of an erasure-coded volume does not get into the shards; nil:
// it does.
func pourProblem(s *replication.PourStatus) *api.Problem {
	if s.Waits == "" || s.For < pourPatience {
		return nil
	}
	p := &api.Problem{Code: pourWaits, Advice: "start the nodes that hold its shards, and look at their logs"}
	p.Text = fmt.Sprintf("its log is not poured into the shards, for %v: that waits for %s; the log is %d %% full", s.For.Round(time.Second), s.Waits, 100*s.LogUsed/max(s.LogBytes, 1))
	if s.LogUsed > s.LogBytes/2 {
		p.Text += ", and writes wait for room"
	} else {
		p.Text += ", writes wait at 50 %"
	}
	switch {
	case s.Node != "":
		p.Advice = fmt.Sprintf("look at the disk, the load and the network of %s; if it is lost: blkctl node replace %s", s.Node, s.Node)
	case s.Lost:
		p.Advice = "write over the lost blocks, or restore them from a backup; which they are: blkctl volume verify"
	}
	return p
}

// describePeer is another replica as the primary sees it.
func describePeer(s *replicas.Status, p *replication.PeerStatus) *api.Replica {
	out := &api.Replica{Node: string(p.Node), Connected: p.Connected, HeldSeq: uint64(p.Held), DurableSeq: uint64(p.Durable)}
	if at, ok := s.Compared[string(p.Node)]; ok {
		out.Compared = timestamppb.New(at)
	}
	if p.Held < s.Last {
		out.BehindEntries = uint64(s.Last - p.Held)
	}
	if p.Joining {
		out.Resync = &api.Resync{Kind: api.ResyncKind_RESYNC_KIND_LOG, SyncedBytes: p.Copied, TotalBytes: p.Copied}
		switch {
		case p.Extents: // how much has changed further on is guessed from what came so far
			out.Resync.Kind = api.ResyncKind_RESYNC_KIND_EXTENTS
			if p.Cursor > 0 {
				out.Resync.TotalBytes = max(p.Copied, int64(float64(p.Copied)*float64(p.Span)/float64(p.Cursor)))
			}
		case p.Full:
			out.Resync.Kind, out.Resync.TotalBytes = api.ResyncKind_RESYNC_KIND_FULL, max(s.Store.AllocatedBytes, p.Copied)
		}
	}
	if p.Slow {
		out.Problems = append(out.Problems, &api.Problem{Code: nodeSlow, Text: "it takes too long to keep up", Advice: "look at the disk, the load and the network of " + string(p.Node)})
	}
	return out
}

// adopt adds what the serving node tells to what is recorded.
func (v *view) adopt(out *api.Volume, r *metapb.Volume) {
	live := v.runtime[r.Name]
	if p := v.recovering(r); p != nil {
		out.Problems = append(out.Problems, p)
	}
	for _, m := range r.Members {
		replica := &api.Replica{Node: m.Node}
		if i := slices.IndexFunc(live.GetReplicas(), func(x *api.Replica) bool { return x.Node == m.Node }); i >= 0 {
			replica = live.Replicas[i]
		}
		replica.State = m.State
		out.Replicas = append(out.Replicas, replica)
	}
	out.Survives = metadata.Survives(v.nodes, v.info.Voters, r)
	if live != nil {
		out.Problems, out.Space = append(out.Problems, live.Problems...), live.Space
		out.AllocatedBytes, out.Io, out.Clients = live.AllocatedBytes, live.Io, live.Clients
		out.Uris, out.Serving, out.Lease, out.SettledAttachment = live.Uris, live.Serving, live.Lease, live.SettledAttachment
	}
	switch {
	case live == nil && r.Served == 0:
		out.State = api.VolumeState_VOLUME_STATE_RECORDED
	case live == nil || hasProblem(out.Problems, tooFewCopies):
		out.State = api.VolumeState_VOLUME_STATE_WAITING
	case len(out.Problems) > 0:
		out.State = api.VolumeState_VOLUME_STATE_DEGRADED
	default:
		out.State = api.VolumeState_VOLUME_STATE_OK
	}
}
