package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"blkd/internal/cluster"
	"blkd/metadata"
)

var (
	phaseDesc         = describe("quorum_phase", "1 for the phase that the node is in on its way into the cluster, else 0.", "phase")
	votersDesc        = describe("quorum_voters", "Voters of the metadata quorum.")
	presentDesc       = describe("quorum_voters_present", "Voters in contact with this node, itself included if it is one.")
	neededDesc        = describe("quorum_voters_needed", "Voters that must be there to decide anything.")
	hasLeaderDesc     = describe("quorum_has_leader", "1 while this node knows a leader, else 0.")
	isLeaderDesc      = describe("quorum_is_leader", "1 while this node leads, else 0.")
	termDesc          = describe("quorum_term", "Term of Raft.")
	committedDesc     = describe("quorum_committed_index", "Last entry of the Raft log that this node knows to be committed.")
	appliedDesc       = describe("quorum_applied_index", "Last entry that this node's records reflect.")
	lastEventDesc     = describe("quorum_last_event", "Number of the last change that this node's records reflect.")
	peerConnectedDesc = describe("quorum_peer_connected", "1 while the connection to another node is open, else 0.", "node")
	peerSilentDesc    = describe("quorum_peer_silent_seconds", "Time since another node was last heard; absent if it never was.", "node")
	peerRTTDesc       = describe("quorum_peer_rtt_seconds", "Round trip of the latest heartbeat to another node; absent if unknown.", "node")

	quorumDescs = []*prometheus.Desc{phaseDesc, votersDesc, presentDesc, neededDesc, hasLeaderDesc, isLeaderDesc, termDesc, committedDesc,
		appliedDesc, lastEventDesc, peerConnectedDesc, peerSilentDesc, peerRTTDesc}

	phases = []cluster.Phase{cluster.Founding, cluster.Joining, cluster.Starting, cluster.Registering, cluster.Member, cluster.Refused, cluster.Failed}
)

func collectQuorum(m *member, out chan<- prometheus.Metric) {
	number := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st := m.cluster.Status()
	for _, p := range phases {
		number(phaseDesc, truth(p == st.Phase), p.String())
	}
	number(votersDesc, float64(len(st.Voters)))
	number(presentDesc, float64(st.Have))
	number(neededDesc, float64(st.Need))
	number(hasLeaderDesc, truth(st.Leader != ""))
	number(isLeaderDesc, truth(st.Leader == st.Name))
	number(termDesc, float64(st.Term))
	number(committedDesc, float64(st.Commit))
	number(appliedDesc, float64(st.Applied))
	var event uint64
	m.cluster.Local(func(s *metadata.State) { event = s.LastEvent() })
	number(lastEventDesc, float64(event))
	for _, p := range st.Peers {
		number(peerConnectedDesc, truth(p.Connected), p.Name)
		if p.Silent >= 0 {
			number(peerSilentDesc, p.Silent.Seconds(), p.Name)
		}
		if p.RTT > 0 {
			number(peerRTTDesc, p.RTT.Seconds(), p.Name)
		}
	}
}

// truth is a condition as Prometheus has it.
func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
