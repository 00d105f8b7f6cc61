package replication

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// join brings a replica level that does not count yet: one that was dropped,
// restarted with amnesia, or is new. One at a time.
type join struct {
	node    NodeID
	since   Instant
	invited Instant
	joined  bool // it has promised

	full    bool // a copy; else the log reaches
	behind  Seq  // of a copy: only of what has changed after this; 0: of everything
	begin   Seq  // its log has what follows this, and maybe more
	empty   bool // it has answered RESET
	cursor  int64
	reading bool
	planned uint64           // pieces cut off so far
	pieces  map[uint64]piece // not answered, to be read again after a broken connection
	sent    uint64
	held    uint64
	end     uint64 // number of the piece that ends the copy; 0: not reached
	copied  int64  // bytes sent
	share   share
	safe    Seq    // what may have been flushed when it was found to need a full copy
	buf     []byte // of the piece that is read
	changed changed
}

// piece is a range of the copy.
type piece struct{ off, n int64 }

// share is what a copy may move beside clients that are at work: a third of what they
// do, so that they keep three quarters of whatever is short, and CopyRate on top of that,
// so that it always ends. What they do is counted, in bytes: how long something takes
// would tell less, for others make that longer, and so does the copy itself.
type share struct {
	left int64   // bytes that it may move; below 0: more than its share was moved
	at   Instant // when left was reckoned,
	work int64   // and what clients had done then
}

// mayCopy tells whether a copy may go on now.
func (c *Core) mayCopy(j *join) bool {
	s := &j.share
	most := int64(c.lim.Copies) * c.lim.CopyBytes
	if c.p.worked == 0 || c.now.after(c.p.worked.add(c.times.Probe)) || mutant.On(mutant.ReplicaCopyGreedy) {
		s.left = most // clients want nothing
	}
	s.left = min(s.left+(c.p.work-s.work)/3+int64(float64(c.lim.CopyRate)*time.Duration(c.now-s.at).Seconds()), most)
	s.at, s.work = c.now, c.p.work
	return s.left > 0
}

// requestWork is about what a request costs beside its data, in bytes that are copied.
const requestWork = 6 << 10

// worked notes a client's request that is done.
func (c *Core) worked(r *Request) {
	c.p.worked = c.now
	c.p.work += requestWork
	if r.Op == blockdev.OpRead || r.Op == blockdev.OpWrite {
		c.p.work += r.Len
	}
}

// complete tells whether everything was copied.
func (j *join) complete() bool {
	return j.joined && (!j.full || mutant.On(mutant.ReplicaHalfCopy) || j.end != 0 && j.held >= j.end)
}

// reachedBy tells whether the log of the replica that joins has whatever a member lacks:
// that replica may be primary next. Who lacks more catches up soon, or is to leave.
func (c *Core) reachedBy(j *join) bool {
	if mutant.On(mutant.ReplicaGrowShort) {
		return true
	}
	for _, p := range c.p.now.peers {
		if p.held < j.begin && c.lost(*c.p.base.member(p.node)) == "" {
			return false
		}
	}
	return true
}

func (c *Core) endJoin(why string) {
	c.note("the join of %s ends: %s", c.p.join.node, why)
	if p := c.peer(c.p.join.node); p != nil {
		p.ready = false
	}
	c.p.join = nil
	c.p.joins.failed(c.now)
}

// tickJoin invites the next candidate, and gives up one that does not answer.
func (c *Core) tickJoin() {
	if c.role != Chosen && c.role != Primary || c.p.drain != nil {
		return
	}
	if j := c.p.join; j != nil {
		p := c.peer(j.node)
		switch {
		case p == nil:
			c.p.join = nil
		case p.behind:
			c.endJoin("it lost its place")
		case c.now.after(p.heard.add(2*c.times.Drop)) && c.p.pend == nil:
			c.endJoin("it does not answer")
			p.silent = true
		case c.p.pend == nil && j.full && j.behind != keepShard && !c.rebuildable() && c.candidate() != p:
			c.endJoin("too few shards can be read to rebuild its own")
		case c.p.pend == nil && c.holdsPlace(c.outgoing(*c.p.base.member(j.node))):
			c.endJoin("who leaves for it is needed now")
		case !j.joined && c.now.after(j.invited.add(c.times.Probe)):
			c.invite(p)
		}
		return
	}
	if c.p.pend != nil || !c.p.joins.ready(c.now) {
		return
	}
	if p := c.candidate(); p != nil {
		p.ready, p.behind, p.heard = false, false, c.now
		p.tries++
		c.p.join = &join{node: p.node, since: c.now, pieces: map[uint64]piece{}}
		c.invite(p)
	}
}

// candidate is who should join next: who was tried least, with a start for members
// without memory, because commits may wait for them.
func (c *Core) candidate() (best *peer) {
	least := 0
	for i := range c.p.base.Members {
		m := &c.p.base.Members[i]
		p := c.peer(m.Node)
		if p == nil || !p.up || m.Incarnation == 0 || m.State == UpToDate && !m.Amnesiac || p.far && c.role == Chosen || !c.now.after(p.barred) {
			continue
		}
		tries := p.tries
		if old := c.outgoing(*m); old != nil {
			if c.holdsPlace(old) {
				continue
			}
			if old.State == UpToDate {
				tries += 3 // who makes the set larger comes first
			}
		}
		if m.Amnesiac {
			tries -= 3
		}
		if best == nil || tries < least {
			best, least = p, tries
		}
	}
	return best
}

func (c *Core) invite(p *peer) {
	c.p.join.invited = c.now
	m := c.mem.message(MsgJoin)
	m.Gen = c.gen
	c.send(p, m)
}

// onJoined decides how a replica is brought level: by the log if that reaches,
// else by a copy of what has changed, or of everything.
func (c *Core) onJoined(p *peer, m *Message) {
	j := c.p.join
	if j == nil || j.node != p.node || j.joined || c.role != Chosen && c.role != Primary {
		return
	}
	_, end := c.disk.Last()
	at, sound := c.inCommon(p, m, end)
	if sound && c.shardFollows(m) {
		if _, err := c.disk.ReadLog(at, 1); at == end || err == nil {
			j.joined, j.begin = true, at
			c.level(p, at, min(m.Durable, at))
			return
		}
	}
	if c.role == Chosen && (c.coded != nil || mutant.On(mutant.ReplicaChosenWaits)) {
		// Its shard cannot be rebuilt before this generation reads the others.
		p.far = true
		c.endJoin("the log does not reach it")
		return
	}
	// Who was just recorded may have content of another shard, which it had before.
	follows := c.shardFollows(m) && (c.coded == nil || c.p.base.member(p.node).State != Inconsistent || mutant.On(mutant.ReplicaKeepOther))
	if !follows && !c.rebuildable() {
		c.endJoin("too few shards can be read to rebuild its own")
		return
	}
	if j.safe == 0 {
		j.safe = end
	}
	if c.coded != nil {
		if some, _ := c.coded.unsettled(); some {
			c.wantSync()
			return // the copy begins with what is decided for good
		}
	}
	if c.durable < j.safe {
		// What was flushed may be durable there and not here yet: it is emptied
		// when this copy does not depend on power any more. It is invited again.
		c.needDurable(j.safe)
		return
	}
	// Its log begins after what is committed; the copy holds everything before. Of an
	// erasure code, the shards hold what was poured.
	begin := c.p.commit
	if c.coded != nil && !mutant.On(mutant.ReplicaSkipStaged) {
		begin = c.coded.decision().upto
	}
	gen, ok := c.disk.GenAt(begin)
	if !ok {
		c.endJoin(fmt.Sprintf("the generation of entry %d is not known", begin))
		return
	}
	j.joined, j.full, j.begin, j.behind = true, true, begin, c.changesSince(p, m)
	if c.coded != nil && follows && !m.Incomplete {
		j.behind = keepShard // only its log is too far behind
	} else if c.coded != nil && m.Lease != 0 && !p.whole && c.p.base.member(p.node).State != Inconsistent {
		j.behind, j.changed.since = keepBase, batchID(m.Lease)
	}
	reset := c.mem.message(MsgReset)
	reset.Gen, reset.PrevGen, reset.PrevSeq, reset.Commit = c.gen, gen, begin, j.behind
	if !mutant.On(mutant.ReplicaCopySmall) {
		reset.Off = c.disk.Size()
	}
	if c.coded != nil {
		reset.Copy, reset.Lease = uint64(c.coded.batch()), uint64(j.changed.since)
	}
	if !mutant.On(mutant.ReplicaResetSessions) {
		reset.Data = c.disk.Sessions(begin).Append(nil)
		reset.Len = int64(len(reset.Data))
	}
	c.send(p, reset)
	c.level(p, begin, begin)
}

// inCommon is up to where this log and that of a replica are the same. They must
// agree where it has committed: a recovery may have lost that here.
func (c *Core) inCommon(p *peer, m *Message, end Seq) (at Seq, sound bool) {
	if m.Incomplete && !mutant.On(mutant.ReplicaResumeCopy) || c.p.base.member(p.node).State == Inconsistent {
		return 0, false
	}
	if g, known := c.disk.GenAt(m.LastSeq); known && (g == m.LastGen || mutant.On(mutant.ReplicaSuffixAny)) {
		return m.LastSeq, true
	}
	g, known := c.disk.GenAt(m.Commit)
	return m.Commit, m.Commit <= end && (m.Commit == 0 || known && (g == m.PrevGen || mutant.On(mutant.ReplicaTrustCommit)))
}

// level begins sending from the log.
func (c *Core) level(p *peer, at, durable Seq) {
	c.partGone(p)
	p.starts(at, durable)
	c.note("%s joins from entry %d", p.node, at)
	c.probe(p)
	c.pump(p)
	c.copyOn()
}

// copyOn sends the next pieces of a full copy, a few ahead of the answers, as far as its
// share goes.
func (c *Core) copyOn() {
	j := c.p.join
	if j == nil || !j.full || c.role != Chosen && c.role != Primary || c.p.drain != nil {
		return
	}
	p := c.peer(j.node)
	if p == nil || !p.ready || !p.up {
		return
	}
	maps.DeleteFunc(j.pieces, func(n uint64, _ piece) bool { return n <= j.held })
	for !j.reading && j.sent < j.held+c.lim.Copies && (j.end == 0 || j.sent < j.end) && c.mayCopy(j) {
		if !c.copyPiece(p, j) {
			return
		}
	}
}

// copyPiece sends piece j.sent+1. It is false if that must wait.
func (c *Core) copyPiece(p *peer, j *join) bool {
	n := j.sent + 1
	if n > j.planned {
		if j.behind != keepShard && c.coded != nil {
			if _, known := c.nextChanged(j); !known {
				return false
			}
		}
		off, length, err := c.nextPiece(j)
		if err != nil {
			c.endJoin(fmt.Sprintf("the copy cannot be read: %v", err))
			return false
		}
		length = min(length, c.lim.CopyBytes)
		if length == 0 {
			j.end = n
		}
		j.planned, j.pieces[n], j.cursor = n, piece{off, length}, off+length
	}
	at := j.pieces[n]
	if at.n == 0 {
		j.sent = n
		c.sendPiece(p, n, piece{}, nil)
		return true
	}
	if c.coded != nil {
		c.copyShard(p, j, n)
		return j.sent == n
	}
	if c.lockedRange(at.off, at.off+at.n) {
		return false // an answer or a tick comes back to it
	}
	if p.next <= c.p.commit {
		if c.pump(p); p.next <= c.p.commit {
			return false // it would not be sent
		}
	}
	f := &flight{off: at.off, end: at.off + at.n}
	j.share.left -= at.n
	if !mutant.On(mutant.ReplicaCopyUnlocked) {
		c.lock(f)
	}
	j.reading = true
	c.readPiece(p, j, n, f)
	return false
}

// readPiece reads piece n and sends it. Nothing new is written to its range, f,
// meanwhile, and it is read again if what was under way is committed; so it holds
// exactly what is committed when it is sent. Of a log that was just chosen, everything
// behind the commit point is under way.
func (c *Core) readPiece(p *peer, j *join, n uint64, f *flight) {
	at, commit := j.pieces[n], c.p.commit
	j.buf = slices.Grow(j.buf[:0], int(at.n))[:at.n]
	r := &Request{Op: blockdev.OpRead, Off: at.off, Len: at.n, Data: j.buf, gen: c.gen}
	moving := c.role == Chosen || c.inFlight(f.off, f.end)
	r.job = func(r *Request) {
		if moving && commit != c.p.commit && c.p.join == j && !mutant.On(mutant.ReplicaCopyUnlocked) {
			c.readPiece(p, j, n, f)
			return
		}
		c.unlock(f)
		j.reading = false
		if c.p.join != j || j.sent+1 != n || !p.ready || !p.up {
			return
		}
		// Entries that wait for room in the window come first, if the piece reflects
		// them: it must not be there before them.
		if p.next <= c.p.commit {
			if c.pump(p); p.next <= c.p.commit {
				return
			}
		}
		j.sent = n
		j.copied += r.Len
		c.sendPiece(p, n, at, r.Data)
	}
	c.out.Reads = append(c.out.Reads, r)
}

func (c *Core) sendPiece(p *peer, n uint64, at piece, data []byte) {
	m := c.mem.message(MsgCopy)
	m.Gen, m.Copy, m.Off, m.Len, m.Data = c.gen, n, at.off, at.n, data
	c.send(p, m)
}

// readFailed ends what needed a block that cannot be read here.
func (c *Core) readFailed(r *Request, err error) {
	if r.fail != nil {
		r.fail(err)
		c.progress()
		return
	}
	for _, f := range c.p.locked {
		if r.Off >= f.off && r.Off < f.end {
			c.unlock(f)
			if f.req != nil {
				c.finish(f.req, err)
			} else if c.p.join != nil {
				c.endJoin(fmt.Sprintf("the copy cannot be read: %v", err))
			}
			break
		}
	}
	c.progress()
}
