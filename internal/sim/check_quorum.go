package sim

import (
	"bytes"
	"hash/crc32"

	"blkd/metadata"

	"go.etcd.io/raft/v3/raftpb"
)

// chronicle is what the simulation knows of the quorum, and no member does.
type chronicle struct {
	decisions map[uint64]string  // the request that was applied first at an index
	furthest  uint64             // index that any member has applied
	leads     map[uint64]uint64  // who leads in a term, by Raft id
	entries   map[slot]logged    // what was written to any log
	sums      map[uint64]uint32  // of the state at some indexes
	askings   map[string]*asking // by request
	raftNodes map[uint64]*node   // by Raft id
	membersAt uint64             // index of the last change of members
	readID    uint64             // the last one given
	founding  bool               // the cluster is being founded,
	mail      []func()           // and that is under way
}

// slot is a place in the log of Raft.
type slot struct{ index, term uint64 }

// logged is what an entry was when it was first written.
type logged struct {
	before uint64 // term of the entry before; 0: not known
	sum    uint32
}

func (c *chronicle) init() {
	c.decisions, c.leads, c.entries = map[uint64]string{}, map[uint64]uint64{}, map[slot]logged{}
	c.sums, c.askings, c.raftNodes = map[uint64]uint32{}, map[string]*asking{}, map[uint64]*node{}
}

// wroteEntry checks log matching: entries of the same index and term are the same, and
// behind the same, wherever they are written.
func (s *sim) wroteEntry(n *node, e *raftpb.Entry) {
	at := slot{e.GetIndex(), e.GetTerm()}
	x := logged{sum: crc32.ChecksumIEEE(e.GetData())}
	if p := n.store.entry(at.index - 1); p != nil {
		x.before = p.GetTerm()
	}
	was, ok := s.entries[at]
	if ok && (was.sum != x.sum || was.before != x.before && was.before*x.before != 0) {
		s.violate("quorum", "%s writes %+v as entry %+v, which was %+v", n.name, x, at, was)
	}
	if !ok || was.before == 0 {
		s.entries[at] = x
	}
}

// processed is told of what a round of a member has brought about.
func (s *sim) processed(v *voter, out *metadata.Output) {
	members := out.Members
	for _, x := range out.Applied {
		for len(members) > 0 && members[0].Index < x.Index {
			members = s.joint(members)
		}
		s.appliedAt(v, x)
	}
	for len(members) > 0 {
		members = s.joint(members)
	}
	was := v.status.Applied
	v.status = v.core.Status()
	if v.status.Applied < was {
		s.violate("quorum", "%s had applied index %d, and now %d", v.n.name, was, v.status.Applied)
	}
	s.furthest = max(s.furthest, v.status.Applied)
	if last, err := v.log.LastIndex(); err == nil && v.n.store.has(last+1) {
		s.violate("quorum", "the log of %s ends at %d, and its disk has an entry behind that", v.n.name, last)
	}
	if v.status.Applied != was && v.status.Applied%16 == 0 {
		s.checkState(v)
	}
	if v.status.Leader == v.id {
		if by, ok := s.leads[v.status.Term]; ok && by != v.id {
			s.violate("quorum", "Raft id %d leads in term %d, and so does %d", v.id, v.status.Term, by)
		} else if !ok {
			s.leads[v.status.Term] = v.id
			s.Elections++
			s.note("leads", uint64(v.n.id), v.status.Term)
			s.logf("quorum: %s leads in term %d", v.n.name, v.status.Term)
		}
	}
}

// joint takes the first change of members in.
func (s *sim) joint(list []metadata.Members) []metadata.Members {
	if list[0].Index > s.membersAt {
		s.membersAt = list[0].Index
		s.state.ApplyConf(list[0].Index, list[0].Conf)
		s.VoterChanges++
		s.logf("quorum: its members are %v", list[0].Conf)
	}
	return list[1:]
}

// appliedAt checks that all members apply the same commands at the same places, and
// nothing where another one has applied nothing.
func (s *sim) appliedAt(v *voter, x metadata.Applied) {
	was, ok := s.decisions[x.Index]
	switch {
	case ok && was != x.Request:
		s.violate("quorum", "%s applies request %x at index %d, another member has applied %x there", v.n.name, x.Request, x.Index, was)
	case ok:
	case x.Index <= s.furthest:
		s.violate("quorum", "%s applies request %x at index %d, another member has applied nothing there", v.n.name, x.Request, x.Index)
	default:
		s.decisions[x.Index] = x.Request
		s.note("decided", x.Index, uint64(v.n.id))
		s.decided(x)
	}
}

// checkState checks that all members are in the same state at the same index.
func (s *sim) checkState(v *voter) {
	at := v.status.Applied
	sum := crc32.ChecksumIEEE(v.core.State().Encode())
	if was, ok := s.sums[at]; ok && was != sum {
		s.violate("quorum", "at index %d the state of %s is another one", at, v.n.name)
	}
	s.sums[at] = sum
}

// levelQuorum tells whether all nodes have everything that was decided up to an index,
// and are in the same state if that is the last.
func (s *sim) levelQuorum() bool {
	for _, n := range s.nodes {
		if v := n.voter; s.raft && (v == nil || !v.member || v.status.Applied < s.index) {
			return false
		}
	}
	return true
}

// checkVoters checks, of a quorum that is level, that nothing that was decided is missing
// anywhere.
func (s *sim) checkVoters() {
	want := s.state.Encode()
	for _, n := range s.nodes {
		if v := n.voter; v.status.Applied == s.furthest && !bytes.Equal(v.core.State().Encode(), want) {
			s.violate("quorum", "%s has applied everything up to index %d, and its state is not what that makes", n.name, s.furthest)
		}
	}
}
