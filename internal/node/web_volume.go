package node

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"blkd/internal/replicas"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// pageTime bounds how long a page for load balancers takes: what is stuck then is no
// good. Nothing that such a page tells needs a quorum.
const pageTime = 2 * time.Second

// handleHealth serves the pages for load balancers, which may ask with HEAD and
// OPTIONS as well. They answer 200 for yes and 503 for no, and say why; what there is
// no such volume for is 404.
func (n *Node) handleHealth(mux *http.ServeMux) {
	for path, page := range map[string]http.HandlerFunc{
		"/health":           n.health,
		"/primary/{volume}": n.volumePage((*Node).primary),
		"/replica/{volume}": n.volumePage((*Node).replica),
	} {
		timed := http.TimeoutHandler(page, pageTime, "this node does not answer in time\n")
		mux.Handle("GET "+path, timed) // and HEAD
		mux.HandleFunc("OPTIONS "+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", "GET, HEAD, OPTIONS")
			timed.ServeHTTP(w, r)
		})
	}
}

// verdict answers a question about a volume on this node: why it is so, or not.
type verdict struct {
	code int
	text string
}

func yes(format string, args ...any) verdict {
	return verdict{http.StatusOK, fmt.Sprintf(format, args...)}
}

func no(format string, args ...any) verdict {
	return verdict{http.StatusServiceUnavailable, fmt.Sprintf(format, args...)}
}

func (n *Node) volumePage(ask func(n *Node, volume string) verdict) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := ask(n, r.PathValue("volume"))
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(v.code)
		fmt.Fprintln(w, v.text)
	}
}

// primary tells whether this node serves a volume right now: it is primary, and no
// other node can be, for its lease lasts.
func (n *Node) primary(volume string) verdict {
	if n.member == nil {
		return n.alone(volume)
	}
	s, record, bad := n.member.lookAtReplica(volume)
	switch {
	case bad != nil:
		return *bad
	case s.Role != replication.Primary && record.Primary == n.cfg.NodeName:
		return no("%s takes volume %s over, and does not serve it yet", n.cfg.NodeName, volume)
	case s.Role != replication.Primary:
		return no("%s is not primary of volume %s: %s is", n.cfg.NodeName, volume, orNobody(record.Primary))
	case !s.CanRead:
		return no("%s was primary of volume %s, but has no lease: the other replicas do not answer it", n.cfg.NodeName, volume)
	default:
		return yes("%s is primary of volume %s in generation %d", n.cfg.NodeName, volume, s.Generation)
	}
}

// replica tells whether this node holds a replica that counts, the primary's included.
func (n *Node) replica(volume string) verdict {
	if n.member == nil {
		return n.alone(volume)
	}
	_, record, bad := n.member.lookAtReplica(volume)
	if bad != nil {
		return *bad
	}
	i := slices.IndexFunc(record.Members, func(m *metapb.Member) bool { return m.Node == n.cfg.NodeName })
	switch m := record.Members; {
	case i < 0:
		return no("%s holds no replica of volume %s", n.cfg.NodeName, volume)
	case m[i].State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE || m[i].Amnesiac:
		return no("the replica of volume %s on %s is behind: blkctl status %s", volume, n.cfg.NodeName, volume)
	default:
		return yes("%s holds an UpToDate replica of volume %s", n.cfg.NodeName, volume)
	}
}

// alone is the answer of a node without a cluster: it has the only copy, and serves it.
func (n *Node) alone(volume string) verdict {
	v := n.lookup(volume)
	if v == nil {
		return verdict{http.StatusNotFound, fmt.Sprintf("there is no volume %q", volume)}
	}
	if _, err := v.running(); err != nil {
		return no("volume %s is not served: %v", volume, err)
	}
	return yes("%s has volume %s, alone", n.cfg.NodeName, volume)
}

// lookAtReplica is this node's replica of a volume and the newest record of it that
// the node has heard of; bad is the answer if there is no replica to tell about.
func (m *member) lookAtReplica(volume string) (s replicas.Status, record *metapb.Volume, bad *verdict) {
	refuse := func(v verdict) (replicas.Status, *metapb.Volume, *verdict) { return s, nil, &v }
	founded := false
	m.cluster.Local(func(state *metadata.State) {
		founded, record = state.Info().Cluster != 0, state.Volume(volume)
	})
	name := m.node.cfg.NodeName
	switch {
	case !founded:
		return refuse(no("%s has not joined its cluster yet", name))
	case record == nil:
		return refuse(verdict{http.StatusNotFound, fmt.Sprintf("there is no volume %q", volume)})
	case m.replicas == nil:
		return refuse(no("%s is a witness", name))
	}
	s, found := m.replicas.Find(volume)
	switch {
	case !found:
		return refuse(no("%s holds no replica of volume %s", name, volume))
	case s.Failed != nil:
		return refuse(no("the replica of volume %s on %s has failed: %v", volume, name, s.Failed))
	case s.Waits:
		return refuse(no("the replica of volume %s on %s waits for its disk", volume, name))
	}
	return s, record, nil
}
