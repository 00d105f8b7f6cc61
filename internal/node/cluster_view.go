package node

import (
	"slices"
	"time"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// view is the part of the metadata state that status, lists and events tell, as
// of one moment. The records are the state's own, which never change.
type view struct {
	info    *metapb.State
	nodes   []*metapb.Node
	volumes []*metapb.Volume
	event   uint64
	now     time.Time
	leader  string // name; empty: unknown
	// runtime is what the serving nodes tell, by volume; nil: they were not asked.
	runtime  map[string]*api.Volume
	branches []*api.Branch                // that nodes keep, likewise
	logs     map[string][]*api.ReplicaLog // by node, likewise
}

// take fills the view; it is for Read and Local.
func (v *view) take(s *metadata.State) {
	v.info, v.nodes, v.volumes, v.event, v.now = s.Info(), s.Nodes(), s.Volumes(), s.LastEvent(), time.Now()
}

// volume is nil if there is none of that name.
func (v *view) volume(name string) *metapb.Volume {
	i := slices.IndexFunc(v.volumes, func(r *metapb.Volume) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return v.volumes[i]
}

// node is nil if there is none of that name.
func (v *view) node(name string) *metapb.Node {
	i := slices.IndexFunc(v.nodes, func(r *metapb.Node) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return v.nodes[i]
}

func (v *view) describeVolumes() []*api.Volume {
	out := make([]*api.Volume, len(v.volumes))
	for i, r := range v.volumes {
		out[i] = v.describeVolume(r)
	}
	return out
}

func (v *view) describeVolume(r *metapb.Volume) *api.Volume {
	out := &api.Volume{Name: r.Name, SizeBytes: r.SizeBytes, Record: r, Problems: v.volumeProblems(r)}
	out.Branches = v.branchesOf(r)
	switch {
	case v.runtime != nil:
		v.adopt(out, r)
	case r.Served != r.Generation:
		out.State = api.VolumeState_VOLUME_STATE_RECORDED
	case len(out.Problems) > 0:
		out.State = api.VolumeState_VOLUME_STATE_DEGRADED
	default:
		out.State = api.VolumeState_VOLUME_STATE_OK
	}
	return out
}

func (v *view) describeNodes() []*api.ClusterNode {
	out := make([]*api.ClusterNode, len(v.nodes))
	for i, r := range v.nodes {
		out[i] = v.describeNode(r)
	}
	return out
}

func (v *view) describeNode(r *metapb.Node) *api.ClusterNode {
	out := &api.ClusterNode{Record: r, Role: v.role(r)}
	for _, vol := range v.volumes {
		if slices.ContainsFunc(vol.Members, func(m *metapb.Member) bool { return m.Node == r.Name }) {
			out.Members++
		}
		if vol.Primary == r.Name {
			out.Primaries++
		}
	}
	out.Problems = v.nodeProblems(r, int(out.Members))
	return out
}

func (v *view) role(r *metapb.Node) api.NodeRole {
	switch {
	case slices.Contains(v.info.Voters, r.Id) && r.Name == v.leader:
		return api.NodeRole_NODE_ROLE_LEADER
	case slices.Contains(v.info.Voters, r.Id):
		return api.NodeRole_NODE_ROLE_VOTER
	case slices.Contains(v.info.Learners, r.Id):
		return api.NodeRole_NODE_ROLE_LEARNER
	default:
		return api.NodeRole_NODE_ROLE_NONE
	}
}
