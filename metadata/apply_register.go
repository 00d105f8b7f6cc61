package metadata

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// registerNode records a new run of a node. Its memberships go over to it where
// nothing acknowledged can be lost, and become amnesiac where it can.
//
// A primary does not keep its standing: the record goes on naming it with the
// incarnation that was promoted, which is no longer the node's, and only that one
// may serve the generation. Whoever wants it to go on asks for a promotion.
func (a *apply) registerNode(c *metapb.RegisterNode) (*metapb.Result, *Refusal) {
	n, no := a.node(c.Name)
	if no != nil {
		return nil, no.advise("blkctl node add %.80s --address %.80s", c.Name, c.Address)
	}
	if no := checkRegistration(c); no != nil {
		return nil, no
	}
	if no := a.checkIdentity(n, c); no != nil {
		return nil, no
	}
	if n.Incarnation == c.Incarnation {
		return &metapb.Result{Node: n}, nil // asked again: the outcome was unknown
	}
	if no := a.checkRole(n, c); no != nil {
		return nil, no
	}
	if v := a.s.version; v < c.VersionMin || v > c.VersionMax {
		return nil, refused("node %s speaks cluster versions %d to %d, the cluster uses %d", n.Name, c.VersionMin, c.VersionMax, v).
			advise("install a build of blkd on %s that speaks version %d", n.Name, v)
	}
	a.date()
	r := a.putNode(n, a.registered(n, c))
	a.eachMembership(n.Name, func(v *metapb.Volume, i int) {
		a.restartMember(v, i, c.Incarnation, carriesOver(n, c, v.Durability))
	})
	return r, nil
}

// date gives a cluster its age: each founder makes the founding command for itself, so
// that has no time, and the first registration follows at once.
func (a *apply) date() {
	if a.s.created != 0 {
		return
	}
	before := a.s.clusterFields()
	a.s.created = a.c.Time
	a.tell(typeCluster, a.s.name, before, a.s.clusterFields())
}

func checkRegistration(c *metapb.RegisterNode) *Refusal {
	if no := checkAddress(c.Address); no != nil {
		return no
	}
	if no := checkSpace(c.CapacityBytes, c.FreeBytes); no != nil {
		return no
	}
	size := len(c.Boot) + len(c.Build)
	for _, text := range c.Nbd {
		size += len(text)
	}
	for key, value := range c.Labels {
		if !validName(key) {
			return invalid("label %.80q: %s", key, nameRule)
		}
		if value == "" || strings.ContainsAny(value, " \t\n/") {
			return invalid("label %s has the value %.80q: it may neither be empty nor hold spaces or slashes", key, value)
		}
		size += len(key) + len(value)
	}
	switch {
	case size > 10*textLimit || len(c.Tried) > 1000:
		return invalid("node %s says too much of itself", c.Name)
	case c.Incarnation == 0 || c.Disk == 0:
		return invalid("node %s shows no incarnation or no disk number", c.Name)
	case c.VersionMin == 0 || c.VersionMin > c.VersionMax:
		return invalid("node %s speaks cluster versions %d to %d", c.Name, c.VersionMin, c.VersionMax)
	}
	return nil
}

// checkIdentity refuses a node that starts with a data directory that is not the
// one of its last run: another one, or an older image of it.
func (a *apply) checkIdentity(n *metapb.Node, c *metapb.RegisterNode) *Refusal {
	replace := "blkctl node replace " + n.Name
	if n.Disk != 0 && n.Disk != c.Disk {
		return refused("node %s: its data directory (disk %s) is not the one that registered (disk %s)", n.Name, hexID(c.Disk), hexID(n.Disk)).
			advise("start it with the old directory, or give up what that held: %s", replace)
	}
	for _, other := range a.s.nodes.rows {
		if other.Name != n.Name && other.Disk == c.Disk {
			return refused("node %s: its data directory (disk %s) is a copy of the one of node %s", n.Name, hexID(c.Disk), other.Name).
				advise("start it with an empty one")
		}
	}
	known := n.Incarnation == 0 || n.Incarnation == c.Incarnation || n.Incarnation == c.Previous || slices.Contains(c.Tried, n.Incarnation)
	if !known && !mutant.On(mutant.ClusterOldDisk) {
		return refused("node %s: its data directory is an old image: its last run was %s, but it has registered as %s since", n.Name, hexID(c.Previous), hexID(n.Incarnation)).
			advise("start it with the newest directory, or give up what that held: %s", replace)
	}
	return nil
}

// checkRole refuses changes between witness and data node that nobody asked for.
func (a *apply) checkRole(n *metapb.Node, c *metapb.RegisterNode) *Refusal {
	if n.Witness && !c.Witness {
		return refused("node %s is recorded as a witness, but started without --witness", n.Name).
			advise("start it with --witness, or remove it and add it as a data node")
	}
	if !c.Witness || n.Witness {
		return nil
	}
	if held := a.membershipsOf(n.Name); len(held) > 0 {
		return refused("node %s started as a witness, but has replicas of %s", n.Name, someOf(held)).
			advise("start it without --witness, or drain it first: blkctl node drain %s", n.Name)
	}
	return nil
}

// registered is the record of a node's new run.
func (a *apply) registered(old *metapb.Node, c *metapb.RegisterNode) *metapb.Node {
	n := proto.CloneOf(old)
	n.Address, n.Nbd, n.Labels, n.Witness = c.Address, slices.Clone(c.Nbd), maps.Clone(c.Labels), c.Witness
	n.Disk, n.Incarnation, n.Boot, n.Registered = c.Disk, c.Incarnation, c.Boot, a.c.Time
	n.CapacityBytes, n.FreeBytes, n.Fenced = c.CapacityBytes, c.FreeBytes, ""
	n.VersionMin, n.VersionMax, n.Build = c.VersionMin, c.VersionMax, c.Build
	if n.Health != metapb.Health_HEALTH_UP {
		n.HealthSince = a.c.Time
	}
	n.Health, n.HealthText = metapb.Health_HEALTH_UP, "it has registered, and nothing was wrong since"
	return n
}

// carriesOver tells whether everything that a volume's member acknowledged in the
// node's last run is provably on its disk still: the recorded run is the one the
// disk speaks of, it did not end on an I/O error, and either the machine has not
// restarted since, or the volume was closed in order, or each acknowledgement was
// durable in itself.
func carriesOver(n *metapb.Node, c *metapb.RegisterNode, d metapb.Durability) bool {
	if mutant.On(mutant.StateCarryUnclean) {
		return !c.IoError
	}
	if n.Incarnation == 0 || n.Incarnation != c.Previous || c.IoError && !mutant.On(mutant.ClusterIOError) {
		return false
	}
	sameBoot := n.Boot != "" && n.Boot == c.Boot && n.Boot == c.PreviousBoot
	return sameBoot || c.Clean || d == metapb.Durability_DURABILITY_WRITE
}

// restartMember gives a member the new incarnation of its node.
func (a *apply) restartMember(v *metapb.Volume, i int, incarnation uint64, carried bool) {
	m := v.Members[i]
	what := m.Node + " restarted"
	switch {
	case m.State == metapb.ReplicaState_REPLICA_STATE_SYNCING:
		what += ": its copy was broken off"
	case counts(m) && (m.Amnesiac || !carried):
		what += ": it may have lost acknowledged writes and counts no more until it has caught up"
	case counts(m):
		what += ": nothing can be lost, it counts on"
	}
	a.editVolume(v, what, func(v *metapb.Volume) {
		m := v.Members[i]
		m.Incarnation = incarnation
		m.Amnesiac = counts(m) && (m.Amnesiac || !carried)
		if m.State == metapb.ReplicaState_REPLICA_STATE_SYNCING {
			m.State = metapb.ReplicaState_REPLICA_STATE_INCONSISTENT
		}
	})
}

// membershipsOf names the volumes that a node is a member of.
func (a *apply) membershipsOf(node string) (volumes []string) {
	a.eachMembership(node, func(v *metapb.Volume, _ int) { volumes = append(volumes, v.Name) })
	return volumes
}

// someOf lists names for people, at most five of them.
func someOf(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
