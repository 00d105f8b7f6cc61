package metadata

import (
	"slices"
	"strings"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

const (
	firstVersion = 1       // of the features that a new cluster uses
	minLift      = 1000000 // generations; more than any cluster can have gone on after its backup
	maxLift      = 1 << 48
	maxCounter   = 1 << 62 // no counter gets there by counting
)

func (a *apply) foundCluster(c *metapb.FoundCluster) (*metapb.Result, *Refusal) {
	s := a.s
	if s.cluster != 0 {
		return nil, exists("this is cluster %s (%s) already", s.name, hexID(s.cluster))
	}
	if no := checkFounders(c.Cluster, c.Founders); no != nil {
		return nil, no
	}
	name := c.Name
	if name == "" {
		name = "blkd"
	}
	if !validName(name) {
		return nil, invalid("cluster name %.80q: %s", name, nameRule)
	}
	a.changed = true
	s.cluster, s.name, s.version, s.created = c.Cluster, name, firstVersion, a.c.Time
	a.tell(typeCluster, name, nil, s.clusterFields())
	s.setVoters(c.Founders)
	for _, f := range c.Founders {
		a.putNode(nil, &metapb.Node{Name: f.Name, Id: f.Id, Address: f.Address, Disk: f.Disk})
	}
	a.tell(typeVoters, "", nil, s.votersFields())
	return &metapb.Result{}, nil
}

// setVoters takes voters and Raft ids from a founding list.
func (s *State) setVoters(founders []*metapb.Founder) {
	var voters, learners []uint64
	for _, f := range founders {
		s.nextID = max(s.nextID, f.Id)
		if f.Voter {
			voters = append(voters, f.Id)
		} else {
			learners = append(learners, f.Id)
		}
	}
	s.voters, s.learners = sortedIDs(voters), sortedIDs(learners)
}

// checkFounders checks a founding list.
func checkFounders(cluster uint64, founders []*metapb.Founder) *Refusal {
	if cluster == 0 || len(founders) == 0 {
		return invalid("a cluster has an id and founders")
	}
	var names []string
	var ids, disks []uint64
	voters := 0
	for _, f := range founders {
		if no := checkNodeName(f.GetName()); no != nil {
			return no
		}
		if no := checkAddress(f.Address); no != nil {
			return no
		}
		switch {
		case slices.Contains(names, f.Name) || slices.Contains(ids, f.Id) || slices.Contains(disks, f.Disk):
			return invalid("founder %s shares its name, Raft id or disk number with another", f.Name)
		case f.Id == 0 || f.Id >= maxCounter || f.Disk == 0:
			return invalid("founder %s has no Raft id or no disk number", f.Name)
		}
		names, ids, disks = append(names, f.Name), append(ids, f.Id), append(disks, f.Disk)
		if f.Voter {
			voters++
		}
	}
	if voters != 1 && voters != 3 && voters != 5 {
		return invalid("%d voters: a quorum has 1, 3 or 5", voters).advise("with two data nodes, add a third machine as a witness: blkd --witness")
	}
	return nil
}

// restoreCluster makes a new cluster of a backup, as its first command: later, the
// voters of the list and those of Raft would be two things. What the backup says of who is
// up to date may be older than the disks, so every member counts as amnesiac and
// every volume has to be recovered from the logs of all its members.
func (a *apply) restoreCluster(c *metapb.RestoreCluster) (*metapb.Result, *Refusal) {
	s := a.s
	switch {
	case s.cluster == 0:
		return nil, invalid("there is no backup in the log to restore from")
	case a.index != 1:
		return nil, refused("cluster %s runs: a backup is restored where a cluster begins", hexID(s.cluster)).
			advise("blkctl cluster snapshot restore, on nodes with empty data directories")
	case c.Cluster == s.cluster:
		return nil, exists("this is cluster %s already", hexID(s.cluster))
	case c.Lift < minLift || c.Lift > maxLift:
		return nil, invalid("generations must be lifted by %d to %d, not by %d", minLift, maxLift, c.Lift)
	}
	if no := checkFounders(c.Cluster, c.Founders); no != nil {
		return nil, no
	}
	for _, v := range s.volumes.rows {
		if max(v.Generation, v.Number, v.Attachment.Number) >= maxCounter-c.Lift {
			return nil, refused("volume %s is at generation %d, record %d: they cannot be lifted further", v.Name, v.Generation, v.Number)
		}
	}
	a.changed = true
	before, votersBefore := s.clusterFields(), s.votersFields()
	s.cluster, s.created, s.applied = c.Cluster, a.c.Time, requestLog{}
	a.tell(typeCluster, s.name, before, s.clusterFields())
	a.restoreNodes(c.Founders)
	a.tell(typeVoters, "", votersBefore, s.votersFields())
	for _, v := range slices.Clone(s.volumes.rows) {
		a.restoreVolume(v, c.Lift)
	}
	return &metapb.Result{}, nil
}

// restoreNodes gives every node a Raft id of the new cluster: the founders those
// of their list, the others the next ones.
func (a *apply) restoreNodes(founders []*metapb.Founder) {
	s := a.s
	old := s.nodes
	s.nodes, s.retired, s.nextID = table[*metapb.Node]{}, nil, 0
	s.setVoters(founders)
	for _, f := range founders {
		n := &metapb.Node{Name: f.Name}
		if before := old.get(f.Name); before != nil {
			n = unregistered(before)
		}
		n.Id, n.Address, n.Disk = f.Id, f.Address, f.Disk
		a.putNode(old.get(f.Name), n)
	}
	for _, before := range old.rows {
		if s.Node(before.Name) != nil {
			continue
		}
		n := unregistered(before)
		s.nextID++
		n.Id = s.nextID
		a.putNode(before, n)
	}
}

// unregistered is a copy of a node's record without what it said of its last run.
func unregistered(n *metapb.Node) *metapb.Node {
	n = proto.CloneOf(n)
	n.Incarnation, n.Boot, n.Registered = 0, "", 0
	n.Health, n.HealthText, n.HealthSince, n.HeldUntil, n.Fenced = 0, "", 0, 0, ""
	return n
}

func (a *apply) restoreVolume(old *metapb.Volume, lift uint64) {
	a.editVolume(old, "restored from a backup, new lineage", func(v *metapb.Volume) {
		v.Lineage = a.newLineage(v)
		v.Generation, v.Number = old.Generation+lift, old.Number+lift
		v.Primary, v.PrimaryIncarnation = "", 0
		v.Attachment = nobody(old.Attachment.Number + lift)
		for _, m := range v.Members {
			forgetMember(m)
		}
	})
}

// forgetMember takes from a member everything that rests on its last run. One
// that counted goes on to be counted over, as amnesiac: leaving it out would let
// the others do without what only it holds.
func forgetMember(m *metapb.Member) {
	m.Incarnation = 0
	if counts(m) {
		m.Amnesiac = true
	} else {
		m.State = metapb.ReplicaState_REPLICA_STATE_INCONSISTENT
	}
}

func (a *apply) setClusterVersion(c *metapb.SetClusterVersion) (*metapb.Result, *Refusal) {
	s := a.s
	if c.Version < s.version {
		return nil, refused("the cluster uses version %d; it cannot go back to %d", s.version, c.Version)
	}
	var speak []string
	for _, n := range s.nodes.rows {
		if n.Incarnation != 0 && (c.Version < n.VersionMin || c.Version > n.VersionMax) {
			return nil, refused("node %s speaks cluster versions %d to %d, not %d", n.Name, n.VersionMin, n.VersionMax, c.Version).
				advise("update blkd on %s (it is build %s)", n.Name, n.Build)
		}
		if n.Incarnation != 0 {
			speak = append(speak, n.Name)
		}
	}
	if len(speak) == 0 {
		return nil, refused("no node has registered yet: nobody says which versions it speaks")
	}
	if c.Version != s.version {
		a.changed = true
		before := s.clusterFields()
		s.version = c.Version
		a.tell(typeCluster, s.name, before, s.clusterFields())
	}
	return &metapb.Result{Text: "spoken by " + strings.Join(speak, " ")}, nil
}
