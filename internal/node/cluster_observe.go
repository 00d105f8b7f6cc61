package node

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"blkd/internal/cluster"
)

// observeEvery is how often a node looks at its own part in the cluster.
const observeEvery = 100 * time.Millisecond

// observe keeps the health service and systemd up to date until the node stops,
// and says when the node has become a member for the first time.
func (m *member) observe() {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	text, ready := "", false
	for {
		st := m.cluster.Status()
		m.setHealth(&st)
		if now := phaseText(&st); now != text {
			text = now
			notify(m.node.log, "STATUS="+text)
		}
		if st.Phase == cluster.Member && !ready {
			ready = true
			close(m.node.ready)
		}
		select {
		case <-m.node.stopping.Done():
			return
		case <-tick.C:
		}
	}
}

// setHealth says that the node serves while it takes part and knows a leader.
func (m *member) setHealth(st *cluster.Status) {
	health := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if st.Phase == cluster.Member && st.Leader != "" {
		health = grpc_health_v1.HealthCheckResponse_SERVING
	}
	m.health.SetServingStatus("", health)
}

// phaseText is how far the node is, in one line.
func phaseText(st *cluster.Status) string {
	switch {
	case st.Waiting != "":
		return fmt.Sprintf("%s: %s", st.Phase, st.Waiting)
	case st.Phase == cluster.Member:
		return fmt.Sprintf("member of cluster %016x", st.Cluster)
	default:
		return st.Phase.String()
	}
}

// healthPage answers 200 while the node is a member that knows a leader and 503
// otherwise; the body names what is wrong with the cluster.
func (m *member) healthPage(w http.ResponseWriter) {
	st := m.cluster.Status()
	code, body := http.StatusOK, ""
	if st.Phase != cluster.Member || st.Leader == "" {
		code, body = http.StatusServiceUnavailable, "no leader of the metadata quorum is known\n"
	}
	for _, p := range m.clusterProblems(&st, nil) {
		body += "cluster: " + p.Text + "\n"
	}
	if d := m.node.lookAtDisk(); d.problem != nil {
		body += fmt.Sprintf("node %s: %s\n", st.Name, d.problem.Text)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprint(w, cmp.Or(body, "ok\n"))
}
