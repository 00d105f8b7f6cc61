package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"blkd/internal/api"
	"blkd/internal/cluster"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// Codes of problems in a cluster; like those of problems.go.
const (
	noQuorum       = "no_quorum"
	voterMissing   = "voter_missing"
	noSpareVoter   = "no_spare_voter"
	notAMember     = "not_a_member"
	metadataFailed = "metadata_failed"

	nodeNew         = "node_new"
	nodeDown        = "node_down"
	nodeSlow        = "node_slow"
	nodePartitioned = "node_partitioned"
	nodeHeldBack    = "node_held_back"
	nodeDraining    = "node_draining"
	drainWaits      = "drain_waits"

	memberDown     = "member_down"
	memberBehind   = "member_behind"
	membersMissing = "members_missing"
	tooFewCopies   = "too_few_copies"
	noPrimary      = "no_primary"
	branchFailed   = "branch_failed"
	recovering     = "recovering"
	serviceWaits   = "service_waits"
	pourWaits      = "pour_waits"
)

// clusterProblems is what is wrong with the cluster as a whole, as this node sees
// it; stale is why no quorum confirmed its status, nil: one did.
func (m *member) clusterProblems(st *cluster.Status, stale error) []*api.Problem {
	var problems []*api.Problem
	add := func(code, advice, format string, args ...any) {
		problems = append(problems, &api.Problem{Code: code, Text: fmt.Sprintf(format, args...), Advice: advice})
	}
	switch st.Phase {
	case cluster.Member:
	case cluster.Failed:
		add(metadataFailed, st.Advice, "node %s has left the quorum: %s", st.Name, st.Waiting)
	default:
		advice := st.Advice
		if advice == "" {
			advice = "nothing to do, unless it stays so: start blkd on the nodes that it waits for"
		}
		add(notAMember, advice, "node %s is %s: %s", st.Name, st.Phase, st.Waiting)
	}
	var none *cluster.NoQuorumError
	switch {
	case stale != nil && len(st.Voters) == 0: // it knows of no quorum yet, and has said why
	case errors.As(stale, &none):
		add(noQuorum, quorumAdvice(none.Missing), "%v", none)
	case stale != nil:
		add(noQuorum, quorumAdvice(st.Missing), "no quorum has confirmed this in %v: %d of %d voters in contact, %d needed", statusTime, st.Have, len(st.Voters), st.Need)
	case len(st.Missing) > 0:
		add(voterMissing, "start blkd there, or repair the network to it; if it is lost: blkctl node replace "+strings.Join(nodesOf(st.Missing), " or "),
			"%d of %d voters missing: %s; %s", len(st.Missing), len(st.Voters), strings.Join(st.Missing, ", "), spare(st.Have-st.Need))
	case len(st.Voters) == 1:
		add(noSpareVoter, "add two nodes, one of which may be a witness without data: blkctl node add NAME --address HOST:PORT",
			"%s is the only voter: without it nothing can be decided", st.Voters[0])
	}
	return problems
}

// spare says how many more voters may fail.
func spare(n int) string {
	if n <= 0 {
		return "without one more nothing can be decided"
	}
	return fmt.Sprintf("%d more may fail", n)
}

// nodeProblems is what is wrong with a node that has so many members of volumes.
func (v *view) nodeProblems(r *metapb.Node, members int) []*api.Problem {
	var problems []*api.Problem
	add := func(code, text, advice string) {
		problems = append(problems, &api.Problem{Code: code, Text: text, Advice: advice})
	}
	switch r.Health {
	case metapb.Health_HEALTH_DOWN:
		add(nodeDown, "it is down: "+r.HealthText, "start blkd there; if its disk is lost: blkctl node replace "+r.Name)
	case metapb.Health_HEALTH_PARTITIONED:
		add(nodePartitioned, "it is cut off from the leader: "+r.HealthText, "repair the network between it and the other nodes")
	case metapb.Health_HEALTH_SLOW:
		add(nodeSlow, "it is slow: "+r.HealthText, "look at its disk, its load and its network")
	default:
		if r.Incarnation == 0 {
			add(nodeNew, "it is known and has never joined", "start blkd there with an empty data directory and --node-name "+r.Name)
		}
	}
	if held := time.Unix(0, r.HeldUntil); held.After(v.now) {
		add(nodeHeldBack, fmt.Sprintf("it came and went too often and is not used until %s", held.UTC().Format(time.RFC3339)),
			"find out why: its log, its network; it is used again by itself")
	}
	if left := v.undrained(r, members); left != "" {
		add(nodeDraining, "it is drained and still has "+left, "nothing to do; to take it back: blkctl node undrain "+r.Name)
	}
	return problems
}

// undrained is what keeps a drained node from being empty, or from serving nothing if
// its replicas stay; empty: nothing.
func (v *view) undrained(r *metapb.Node, members int) string {
	primaries := 0
	for _, vol := range v.volumes {
		if vol.Primary == r.Name {
			primaries++
		}
	}
	switch {
	case !r.Drained, r.KeepReplicas && primaries == 0, members == 0:
		return ""
	case r.KeepReplicas:
		return count(primaries, "volume") + " to serve"
	case primaries > 0:
		return fmt.Sprintf("%s and %s to serve", count(members, "replica"), count(primaries, "volume"))
	}
	return count(members, "replica")
}

// drainProblems adds what a drain waits for that does not come by itself.
func drainProblems(n *api.ClusterNode, waits []*metadata.Refusal) {
	for _, w := range waits {
		n.Problems = append(n.Problems, &api.Problem{Code: drainWaits, Text: "the drain waits: " + w.Text, Advice: w.Advice})
	}
}

func hasProblem(problems []*api.Problem, code string) bool {
	return slices.ContainsFunc(problems, func(p *api.Problem) bool { return p.Code == code })
}

// volumeProblems is what is wrong with a volume, as its record says.
func (v *view) volumeProblems(r *metapb.Volume) []*api.Problem {
	var problems []*api.Problem
	add := func(code, advice, format string, args ...any) {
		problems = append(problems, &api.Problem{Code: code, Text: fmt.Sprintf(format, args...), Advice: advice})
	}
	live := 0
	for _, m := range r.Members {
		down := v.node(m.Node).GetHealth() == metapb.Health_HEALTH_DOWN
		switch {
		case down:
			add(memberDown, "start blkd on "+m.Node, "replica %s is on a node that is down", m.Node)
		case m.Amnesiac:
			add(memberBehind, "nothing to do", "replica %s may have lost writes and counts when it has caught up", m.Node)
		case m.State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE:
			add(memberBehind, "nothing to do", "replica %s is %s", m.Node, api.ReplicaWord(m.State))
		}
		if counts(m) && !down {
			live++
		}
	}
	if want := wantedReplicas(r.Layout); len(r.Members) < want {
		add(membersMissing, "start the nodes that are down, or add one: blkctl node add", "it has %s of the %d that %s wants", count(len(r.Members), "replica"), want, api.LayoutWord(r.Layout))
	}
	if live < int(r.MinCopies) {
		advice := "start the nodes that hold its replicas"
		if live > 0 && v.node(r.Primary).GetHealth() != metapb.Health_HEALTH_DOWN && r.GetLayout().GetKind() == metapb.LayoutKind_LAYOUT_KIND_MIRROR {
			advice += fmt.Sprintf("; to go on without them: blkctl volume change %s --min-copies %d", r.Name, live)
		}
		add(tooFewCopies, advice, "%s that counts is reachable, and requests wait below %d", count(live, "replica"), r.MinCopies)
	}
	if r.Primary == "" {
		add(noPrimary, "blkctl history "+r.Name, "no node is its primary")
	}
	if p := v.serviceProblem(r); p != nil {
		problems = append(problems, p)
	}
	return problems
}

// serviceProblem is why a volume's service does not run where it shall: the node has not
// taken the volume. While a service moves that is so for a moment.
func (v *view) serviceProblem(r *metapb.Volume) *api.Problem {
	wanted, holder := r.Service.GetWanted(), r.Attachment.GetHolder()
	if wanted == "" || holder == metapb.ServiceOf(wanted) {
		return nil
	}
	p := &api.Problem{Code: serviceWaits, Text: "its service shall run on " + wanted}
	from := slices.IndexFunc(r.Service.Nodes, func(name string) bool { return metapb.ServiceOf(name) == holder })
	switch {
	case v.node(wanted).GetHealth() == metapb.Health_HEALTH_DOWN:
		p.Text += ", which is down"
		p.Advice = "start blkd there, or: blkctl service move " + r.Name
	case holder == "" || metapb.IsClients(holder):
		p.Text += ", which has not taken the volume"
		p.Advice = "there: blkctl service show " + r.Name + "; systemctl status blkd-service@" + r.Name
	case from >= 0:
		p.Text += ", and " + holder + " has not given the volume up"
		p.Advice = "nothing to do, it is taken over in a while; else on " + r.Service.Nodes[from] + ": systemctl status blkd-service@" + r.Name
	default:
		p.Text += ", and another client holds the volume: " + holder
		p.Advice = "detach it there; if that client is gone: blkctl detach " + r.Name + " --holder " + holder
	}
	return p
}
