package sim

import (
	"blkd/internal/model"
	"blkd/replication"
)

// Every run is replayed against the rules of package model: what happens to the nodes
// here is told to a model.Replay, in its words. This file translates.

// replayed is what a node is for the model.
type replayed struct {
	set, asked recordSet
	known      model.Known // the last time
	other      bool        // it has another disk than its last run
	released   bool        // a hand-over has given its leases up,
	releases   bool        // in the step that is carried out
}

// recordSet is the set of a record, and of which it is.
type recordSet struct {
	rec *replication.Record
	set model.Set
}

func (x *recordSet) of(s *sim, rec *replication.Record) model.Set {
	if rec != x.rec {
		x.rec, x.set = rec, model.Set{}
		if rec != nil {
			x.set = s.setOf(rec)
		}
	}
	return x.set
}

func (s *sim) setOf(rec *replication.Record) (set model.Set) {
	set.Majority = rec.Policy == replication.AckMajority
	for i := range rec.Members {
		if m := &rec.Members[i]; m.State == replication.UpToDate {
			set.Members |= model.Bit(number(m.Node))
			if m.Amnesiac {
				set.Amnesiacs |= model.Bit(number(m.Node))
			}
		}
	}
	return set
}

// number is that of a node, by its name.
func number(name replication.NodeID) (id int) {
	for _, c := range []byte(name[1:]) {
		id = 10*id + int(c-'0')
	}
	return id - 1
}

// deafToModel makes runs go on after a step that the model does not allow: a test wants
// to know what else finds a bug.
var deafToModel bool

// startReplay begins to follow the cluster.
func (s *sim) startReplay() {
	s.replay = model.NewReplay(len(s.nodes), func(step string, i int, why string) {
		if !deafToModel {
			s.violate("model", "%s of %s is no step of the model: %s", step, s.nodes[max(i, 0)].name, why)
		}
	})
}

// known is what a promoted node goes by.
func (s *sim) known(n *node) *model.Known {
	view, k := n.core.View(), &n.known
	*k = model.Known{}
	counted, asked := view.Counted(), view.Asked()
	if counted == nil {
		return k
	}
	k.Number = counted.Number
	k.Set, k.Asked = n.set.of(s, counted), n.asked.of(s, asked)
	k.Strict = counted.Durability == replication.DurableWrite || asked != nil && asked.Durability == replication.DurableWrite
	k.Held[n.id], k.Durable[n.id], k.Runs[n.id] = uint64(n.disk.last()), uint64(view.Durable()), uint64(n.inc)
	now := s.clock(n)
	for i := 0; ; i++ {
		p, ok := view.Known(i)
		if !ok {
			return k
		}
		j := number(p.Node)
		k.Held[j], k.Durable[j], k.Runs[j] = uint64(p.Held), uint64(p.Durable), uint64(p.Incarnation)
		if p.Sealed {
			k.Sealed |= model.Bit(j)
		}
		if p.Lease > now {
			k.Lent |= model.Bit(j)
		}
	}
}

// otherDisk tells the model that a node's disk is not the one of its last run.
func (s *sim) otherDisk(n *node) {
	n.other = true
	s.replay.Replaced(n.id)
}

// opened tells the model of a replica that was opened, or made.
func (s *sim) opened(n *node, made bool) {
	run, prom, commit := uint64(n.inc), uint64(n.disk.prom), uint64(n.disk.commit)
	if made || n.other {
		s.replay.Opened(n.id, run, prom, s.logOf(n.disk), commit)
	} else {
		gen, last := n.disk.end()
		s.replay.Reopened(n.id, run, prom, uint64(gen), uint64(last), commit)
	}
	n.other = false
	s.watchDisk(n)
	s.stepped(n)
}

// logOf is the log of a disk, of which the part that is not kept was committed.
func (s *sim) logOf(d *disk) (log model.Log) {
	for seq := replication.Seq(1); seq <= d.last(); seq++ {
		gen, ok := d.GenAt(seq)
		if !ok && int(seq) <= len(s.committed) {
			gen = s.committed[seq-1].Gen
		}
		log.Add(uint64(gen), uint64(seq))
	}
	return log
}

// watchDisk lets the model hear of what is written to a node's disk.
func (s *sim) watchDisk(n *node) {
	n.disk.writes = watcher{
		promised:  func() { s.replay.Promised(n.id, uint64(n.disk.prom), s.lent(n)) },
		cut:       func() { s.replay.CutOff(n.id, uint64(n.disk.last())) },
		emptied:   func() { s.replay.Emptied(n.id, uint64(n.disk.baseGen), uint64(n.disk.baseSeq)) },
		committed: func() { s.replay.Committed(n.id, uint64(n.disk.commit), s.known(n)) },
	}
}

// lent tells whether a node of an older generation than a node's promise believes in a
// lease from it.
func (s *sim) lent(n *node) bool {
	for _, p := range s.nodes[:s.data] {
		if p == n || p.core == nil {
			continue
		}
		if role, gen := p.core.Role(); role == replication.Primary && gen < n.disk.prom && s.known(p).Lent.Has(n.id) {
			return true
		}
	}
	return false
}

// stepped tells the model what a node goes by after a step.
func (s *sim) stepped(n *node) {
	s.replay.Synced(n.id, uint64(n.disk.durable()), n.coded != nil && n.coded.Incomplete() || n.disk.incomplete)
	if role, _ := n.core.Role(); role != replication.Secondary {
		s.replay.Knows(n.id, s.known(n))
		was := n.released
		n.released = n.core.View().Released()
		n.releases = n.released && !was
		if n.core.View().CanRead(s.clock(n)) {
			s.replay.Read(n.id, &n.known)
		}
	}
	gen, seq := n.disk.end()
	s.replay.Stepped(n.id, uint64(gen), uint64(seq))
}

// said tells the model of a message that a node sends.
func (s *sim) said(n *node, x replication.Send) {
	m, to := x.Msg, number(x.To)
	gen, run := uint64(m.Gen), uint64(m.To)
	switch m.Kind {
	case replication.MsgSeal:
		s.replay.SentSeal(n.id, to, gen, run)
	case replication.MsgJoin:
		s.replay.SentJoin(n.id, to, gen, run)
	case replication.MsgReset:
		s.replay.SentReset(n.id, to, gen, run, s.known(n))
	case replication.MsgSealed, replication.MsgJoined:
		s.replay.SaidLog(n.id, gen, m.Kind == replication.MsgSealed, uint64(m.LastGen), uint64(m.LastSeq), uint64(m.Commit), uint64(m.Durable))
	case replication.MsgAck:
		s.replay.SaidHeld(n.id, gen, uint64(m.Held), uint64(m.Durable))
	}
}

// toldRead and toldFlushed tell the model of an answer, unless its node has stepped down,
// or given its leases up, later in the same call.
func (s *sim) toldRead(n *node) {
	if role, _ := n.core.Role(); role != replication.Secondary && !n.releases {
		s.replay.Read(n.id, s.known(n))
	}
}

func (s *sim) toldFlushed(n *node, r *replication.Request) {
	if role, _ := n.core.Role(); role != replication.Secondary {
		s.replay.Flushed(n.id, uint64(r.Last()), s.known(n))
	}
}

// ruled tells the model of what the quorum has decided; nil: it was none of a core's
// proposals.
func (s *sim) ruled(p *replication.Proposal) {
	rec := model.Record{Lineage: s.rec.Lineage, Gen: uint64(s.rec.Generation), Number: s.rec.Number, Set: s.setOf(s.rec), Primary: -1}
	if s.rec.Primary != "" {
		rec.Primary = number(s.rec.Primary)
	}
	for i := range s.rec.Members {
		m := &s.rec.Members[i]
		rec.Runs[number(m.Node)] = uint64(m.Incarnation)
	}
	var outside model.Nodes
	for _, n := range s.nodes {
		if !n.registered && (n.old || s.raft) { // its other disk is meant, or a run that is no more and was registered late
			outside |= model.Bit(n.id)
		}
	}
	s.replay.Recorded(rec, p != nil, p != nil && p.Recover, s.rec.Durability == replication.DurableWrite, outside)
}

// lostPower tells the model what a loss of power has left of a node's log.
func (s *sim) lostPower(n *node) {
	if n.other {
		return
	}
	gen, seq := n.disk.end()
	s.replay.LostPower(n.id, uint64(gen), uint64(seq), uint64(n.disk.commit))
}
