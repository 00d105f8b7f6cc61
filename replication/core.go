package replication

import (
	"fmt"
	"time"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// Replica is the local copy: a *blockdev.Store in replica mode. What its methods
// promise about crashes is told there.
type Replica interface {
	Append([]blockdev.Entry) error
	Commit(Seq) error
	Truncate(Seq) error
	Last() (Generation, Seq)
	Committed() Seq
	// GenAt is the generation of the entry at seq, if that is still known.
	GenAt(Seq) (Generation, bool)
	// ReadLog returns entries after seq, at least one if there is any, and
	// about maxBytes at most.
	ReadLog(after Seq, maxBytes int) ([]blockdev.Entry, error)
	// Keep says that entries after seq must stay readable: a member may lack
	// them. It only rises.
	Keep(after Seq)
	// Import stores committed content under the log; nil data is zeros.
	Import(off, n int64, data []byte) error
	// Size is the volume's length in bytes. A mark that is appended makes it larger,
	// for good.
	Size() int64
	Resize(size int64) error
	// Sessions are the operations of clients that the log holds up to an entry,
	// which is committed or behind what is.
	Sessions(upto Seq) *blockdev.Sessions
	// Reset makes the replica empty, incomplete, its log ending at (gen, seq).
	Reset(gen Generation, seq Seq) error
	// Adopt says which operations the log held before it was reset.
	Adopt(*blockdev.Sessions)
	// Complete ends that.
	Complete() error
	Incomplete() bool
	// NextData finds the first run of allocated bytes at or after off; n is 0
	// if there is none.
	NextData(off int64) (start, n int64, err error)
}

// Gate keeps a member's promise: the highest generation it has promised, and in
// which lineage.
type Gate interface {
	Promised() (lineage uint64, g Generation)
	// Promise is durable when it returns.
	Promise(lineage uint64, g Generation) error
}

// Config is what a Core is made of.
type Config struct {
	Self        NodeID
	Incarnation Incarnation
	Replica     Replica
	Gate        Gate
	Times       Times
	Limits      Limits
	// Now is when the replica was opened. A promise or lease of an earlier run
	// of the node is waited out from here.
	Now Instant
	// Fresh: no earlier run of the node had this replica.
	Fresh bool
	// KeepBranches: complete content of another lineage, which a forced promotion has
	// left, is emptied only when the record says that it is Inconsistent: when an
	// operator has given it up.
	KeepBranches bool
	// Durable: the log was synced up to here when it was opened.
	Durable Seq
	Events  Events
	// Coded: the volume is erasure-coded, and Replica is this. Nil: it is a mirror.
	Coded *Coded
}

// Times are the core's intervals. Zero fields get the defaults.
type Times struct {
	Lease time.Duration // how long a member grants; default DefaultLease
	Drift time.Duration // added to a grant and taken from a belief: clock rate error over one lease; default Lease/300
	Probe time.Duration // a silent peer is asked again; default 100 ms
	Drop  time.Duration // a member that answers nothing is dropped after this; default 700 ms
	Slow  time.Duration // a member that answers, but takes this long to hold or sync what it is sent, is moved out; default 3 s
	Retry time.Duration // first pause between attempts of a plan; doubled up to 32 times; default 100 ms
}

// DefaultLease is Times.Lease where nothing else is set.
const DefaultLease = 600 * time.Millisecond

func (t Times) withDefaults() Times {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Lease, DefaultLease)
	set(&t.Drift, t.Lease/300)
	set(&t.Probe, 100*time.Millisecond)
	set(&t.Drop, 700*time.Millisecond)
	set(&t.Slow, 3*time.Second)
	set(&t.Retry, 100*time.Millisecond)
	return t
}

// Limits bound what is under way. Zero fields get the defaults.
type Limits struct {
	EntryBytes int64  // largest data entry; default 1 MiB
	SendBytes  int    // catching up: bytes sent ahead of the answers; default 8 MiB
	CopyBytes  int64  // one piece of a full copy, or of the log for a member that catches up; default 256 KiB
	LargeBytes int64  // of an erasure code: writes of whole stripes from here on do not pass through the log; default 256 KiB
	Copies     uint64 // pieces sent ahead of the answers; default 4
	CopyRate   int64  // bytes per second that a copy may always move, however much clients want; default 8 MiB
	LagBytes   int64  // log kept for who joins, or has not synced what it holds, within a sixteenth; default 32 MiB
}

func (l Limits) withDefaults() Limits {
	if l.EntryBytes == 0 {
		l.EntryBytes = 1 << 20
	}
	if l.SendBytes == 0 {
		l.SendBytes = 8 << 20
	}
	if l.CopyBytes == 0 {
		l.CopyBytes = 256 << 10
	}
	if l.LargeBytes == 0 {
		l.LargeBytes = 256 << 10
	}
	if l.Copies == 0 {
		l.Copies = 4
	}
	if l.CopyRate == 0 {
		l.CopyRate = 8 << 20
	}
	if l.LagBytes == 0 {
		l.LagBytes = 32 << 20
	}
	return l
}

// Events tell what happens, for logs, metrics and traces. Fields may be nil.
type Events struct {
	Role    func(role Role, g Generation)
	Served  func(*Certificate) // a generation begins to serve
	Refused func(from NodeID, what string)
	Mended  func(off int64, from NodeID) // a bad block at off was written again, with what from has
	Rebuilt func(off int64, at NodeID)   // a bad block at off of the shard on at was written again, from other shards
	Note    func(text string)
}

// Role is what a core does for its volume.
type Role uint8

const (
	Secondary Role = iota // a member, or not even that
	Sealing               // promoted: collecting promises
	Chosen                // has the log, brings W members to it
	Primary               // serves
)

var roleNames = [...]string{"Secondary", "Sealing", "Chosen", "Primary"}

// String is the role's name in messages.
func (r Role) String() string { return roleNames[r] }

// Request is a client's request on its way through the core. The submitter owns
// it again once it is among Effects.Done.
type Request struct {
	Op       blockdev.Op
	FUA      bool
	Off, Len int64
	Data     []byte
	// Map, if it is not nil, is filled instead of Data by a read of whole blocks of an
	// erasure-coded volume: with a bit for each of them, the lowest of a byte first,
	// which tells that it may be data. The others read as zeros.
	Map        []byte
	Attachment uint64 // the number its session was admitted with
	// Origin of a mutation that may be sent again: then it is answered, and does not
	// act, if it was done before.
	Origin blockdev.Origin
	Err    error
	Owner  any // the submitter's; the core leaves it alone

	last Seq            // mutations: the last entry of it; flushes: what must be durable
	gen  Generation     // of the primary that began it
	job  func(*Request) // of the core itself: what to do when it is done
	// serve: a read that another node asked for; told how it went.
	serve func(error)
	fail  func(error)    // a read of the core itself: nobody has the content
	mends int64          // bad blocks that it has found
	batch batchID        // with serve: of the shard that was read
	since batchID        // with serve and Map: what has changed since
	at    []missingRange // with serve, if not nil: what is read of the shard, one after the other
	// Of an erasure code: whole blocks around Data, and what of them is in the shards.
	whole   []byte
	missing []missingRange
}

// Send is a message for one node.
type Send struct {
	To  NodeID
	Msg *Message
}

// Proposal asks the quorum for a change of the record: a compare-and-set on
// (Generation, Number). It is one of four:
//
//   - another member list: Members;
//   - another policy: Shape;
//   - a promotion of a member: Promote and PromoteInc;
//   - the end of a recovery: Recover, with Members, Promote and PromoteInc. It
//     raises the attachment number and begins the mark anew.
type Proposal struct {
	ID         uint64
	Generation Generation
	Number     uint64
	Members    []Member
	Shape      *Shape
	Promote    NodeID
	PromoteInc Incarnation
	Recover    bool
	Waived     []NodeID // recovery: members whose logs were given up, by an operator
	Why        string
}

// Effects is what the caller has to do after a call; see the package comment.
type Effects struct {
	Sends     []Send
	Done      []*Request // answer them; Err is set
	Reads     []*Request // fill Data from the replica, then call Read
	Tasks     []*Task    // run them, then call Finished
	Sync      bool       // sync the replica, then call Synced
	Proposals []Proposal
	// Hangup: close every data connection of clients without an answer, and send
	// nothing that came over them to another node: it may be old. After a
	// hand-over that is not so: what had been begun was answered, and the rest may
	// be sent on.
	Hangup bool
	// Failed ends this run of the replica.
	Failed error
}

// Core is one volume's replication on one node.
type Core struct {
	cfg   Config
	self  NodeID
	inc   Incarnation
	disk  Replica
	coded *Coded // disk, of an erasure-coded volume; nil: it is a mirror
	gate  Gate
	times Times
	lim   Limits

	now Instant
	out Effects
	rec *Record // newest known

	// Member.
	lineage    uint64
	prom       Generation
	grant      grant
	sealing    *pendingSeal // a promise that waits for the grant to end
	matched    Seq          // up to here the log is that of the primary of prom
	durable    Seq          // everything up to here survives power loss
	syncing    bool         // a sync is under way,
	syncSeq    Seq          // of everything up to here
	syncAgain  bool         // and another shall follow
	primaryOf  NodeID       // who sends the appends of prom,
	primaryInc Incarnation
	copied     uint64          // pieces of the full copy held
	restarts   int             // so often did a copy begin here: what was read before is not content
	invited    int             // so often was it asked to join
	unfit      Generation      // a copy was refused to its primary: the shard here cannot follow its log; 0: none was
	stored     []func(ok bool) // parts of batches that wait for a sync, of an erasure code
	lends      Generation      // leases are granted to this generation and later ones
	grantEnded Instant         // when the last lease to an older generation had ended

	links  map[NodeID]link
	role   Role
	gen    Generation // of role, unless it is Secondary
	p      primary
	rescue *recovery // nil: none is needed
	waived []NodeID  // recovery goes on without these
	// waivedWhy is who decided that, and why.
	waivedWhy string

	mem          memory
	nextProposal uint64
	failed       error
}

// NewCore makes the core of a replica that was just opened.
func NewCore(cfg Config) *Core {
	c := &Core{cfg: cfg, self: cfg.Self, inc: cfg.Incarnation, disk: cfg.Replica, coded: cfg.Coded, gate: cfg.Gate,
		times: cfg.Times.withDefaults(), lim: cfg.Limits.withDefaults(), now: cfg.Now, durable: cfg.Durable,
		links: map[NodeID]link{}}
	c.lineage, c.prom = c.gate.Promised()
	if !cfg.Fresh && !mutant.On(mutant.ReplicaForgetGrant) {
		// An earlier run may have granted a lease just before it ended.
		c.grant = grant{until: cfg.Now.add(c.times.Lease + c.times.Drift)}
	}
	return c
}

// Role tells what the core does, and in which generation.
func (c *Core) Role() (Role, Generation) { return c.role, c.gen }

// Take returns what is to be done, and forgets it.
func (c *Core) Take() Effects {
	var e Effects
	c.TakeInto(&e)
	return e
}

// TakeInto is Take into what an earlier call returned, whose memory is used
// again.
func (c *Core) TakeInto(e *Effects) {
	e.reset()
	c.dropPoured()
	*e, c.out = c.out, *e
	c.mem.taken = true
}

// reset empties e and keeps its memory.
func (e *Effects) reset() {
	clear(e.Sends)
	clear(e.Done)
	clear(e.Reads)
	clear(e.Tasks)
	clear(e.Proposals)
	*e = Effects{Sends: e.Sends[:0], Done: e.Done[:0], Reads: e.Reads[:0], Tasks: e.Tasks[:0], Proposals: e.Proposals[:0]}
}

// Stop ends this run of the replica: what is under way is answered with ErrMoved,
// and nothing is done any more.
func (c *Core) Stop(now Instant) {
	if c.enter(now) {
		c.stepDown("this node is being stopped")
		c.failed = ErrMoved
	}
}

// memory is what messages are made of. It is used again in the first call after
// the effects were taken, when the caller has sent them.
type memory struct {
	taken    bool
	messages []*Message
	used     int
	entries  []blockdev.Entry
}

func (m *memory) recycle() {
	m.taken, m.used = false, 0
	clear(m.entries)
	m.entries = m.entries[:0]
}

// message is a zero message that lives until the effects were carried out.
func (m *memory) message(kind Kind) *Message {
	if m.used == len(m.messages) {
		m.messages = append(m.messages, new(Message))
	}
	x := m.messages[m.used]
	m.used++
	*x = Message{Kind: kind}
	return x
}

// enter begins a call.
func (c *Core) enter(now Instant) bool {
	if now < c.now {
		panic(fmt.Sprintf("replication: the clock went back from %d to %d", c.now, now))
	}
	c.now = now
	if c.mem.taken {
		c.mem.recycle()
	}
	return c.failed == nil
}

// fail ends this run: a failed write or sync leaves the disk in a state that
// nobody knows.
func (c *Core) fail(what string, err error) {
	if err == nil || c.failed != nil {
		return
	}
	c.failed = fmt.Errorf("replication: %s: %w", what, err)
	c.out.Failed = c.failed
	c.stepDown("its replica failed")
}

// must turns an error of the replica into the end of this run.
func (c *Core) must(what string, err error) bool {
	c.fail(what, err)
	return err == nil
}

func (c *Core) send(p *peer, m *Message) { c.sendTo(p.node, p.inc, m) }

func (c *Core) sendTo(to NodeID, inc Incarnation, m *Message) {
	m.Lineage, m.From, m.To = c.lineage, c.inc, inc
	c.out.Sends = append(c.out.Sends, Send{to, m})
}

func (c *Core) note(format string, args ...any) {
	if c.cfg.Events.Note != nil {
		c.cfg.Events.Note(fmt.Sprintf(format, args...))
	}
}

// Record tells what the quorum has committed. Older records are ignored.
func (c *Core) Record(now Instant, r *Record) {
	if !c.enter(now) || !r.newerThan(c.rec) {
		return
	}
	c.rec = r
	if !c.adoptLineage(r) {
		return
	}
	// No lease to a generation that has ended: its end would never come.
	c.lends = max(c.lends, r.Generation)
	if c.role != Secondary && (r.Generation != c.gen || r.Primary != c.self || r.PrimaryIncarnation != c.inc) {
		c.stepDown(fmt.Sprintf("the quorum recorded generation %d with primary %s", r.Generation, orNobody(r.Primary)))
	}
	if c.role != Secondary {
		c.recordAsPrimary(r)
	} else {
		c.maybeActivate()
	}
	c.tickRecovery()
}

func orNobody(n NodeID) NodeID {
	if n == "" {
		return "nobody"
	}
	return n
}

// adoptLineage follows the volume into a new lineage with the log that is here, if
// the record says that it counts there. Any other replica is of a branch that was
// left: it has no standing until a join has emptied it.
func (c *Core) adoptLineage(r *Record) bool {
	if c.lineage == r.Lineage {
		return true
	}
	c.stepDown("the volume has a new lineage")
	_, seq := c.disk.Last()
	empty := seq == 0 && c.prom == 0
	if !empty && (!r.inSet(c.self, c.inc) || c.disk.Incomplete()) {
		return false
	}
	return c.enterLineage(r.Lineage)
}

// enterLineage makes promises and leases of another lineage void.
func (c *Core) enterLineage(lineage uint64) bool {
	if !c.must("promise", c.gate.Promise(lineage, 0)) {
		return false
	}
	c.lineage, c.prom, c.matched, c.lends = lineage, 0, 0, 0
	c.sealing, c.primaryOf = nil, ""
	return true
}

// leaveBranch empties a replica of another lineage when it is invited into the
// recorded one.
func (c *Core) leaveBranch(m *Message) bool {
	if m.Kind != MsgJoin || c.rec == nil || m.Lineage != c.rec.Lineage || c.rec.inSet(c.self, c.inc) || !c.now.after(c.grant.until) {
		return false
	}
	if _, seq := c.disk.Last(); c.cfg.KeepBranches && seq > 0 && !c.disk.Incomplete() && c.rec.member(c.self) != nil && c.rec.member(c.self).State != Inconsistent {
		return false // it is asked again
	}
	c.note("leaves lineage %x for %x and becomes empty", c.lineage, m.Lineage)
	c.restarts++
	if !c.must("reset", c.disk.Reset(0, 0)) {
		return false
	}
	c.durable, c.syncSeq, c.copied = 0, 0, 0
	return c.enterLineage(m.Lineage)
}

// Receive handles a peer's message.
func (c *Core) Receive(now Instant, from NodeID, m *Message) {
	if !c.enter(now) {
		return
	}
	if m.To != c.inc && !mutant.On(mutant.ReplicaAnyRun) || m.Lineage == 0 {
		return // for another run
	}
	if m.Lineage != c.lineage && !c.leaveBranch(m) {
		return // of another branch of the volume
	}
	switch m.Kind {
	case MsgAppend:
		c.onAppend(from, m)
	case MsgSeal:
		c.onSeal(from, m)
	case MsgJoin:
		c.onJoin(from, m)
	case MsgFetch:
		c.onFetch(from, m)
	case MsgReset:
		c.onReset(from, m)
	case MsgCopy:
		c.onCopy(from, m)
	case MsgRelease:
		c.onRelease(m)
	case MsgCollect:
		c.onCollect(from, m)
	case MsgCollected:
		c.onCollected(from, m)
	case MsgRead:
		c.onRead(from, m)
	case MsgDigest:
		c.onDigest(from, m)
	case MsgPrepare:
		c.onPrepare(from, m)
	case MsgAck, MsgReject, MsgSealed, MsgFetched, MsgJoined, MsgBlock, MsgDigested, MsgPrepared:
		c.onAnswer(from, m)
	}
}

// Tick lets time pass. Call it every 20 to 50 ms; leases and retries hang on it.
func (c *Core) Tick(now Instant) {
	if !c.enter(now) {
		return
	}
	c.finishSeal()
	c.tickShard()
	if c.role == Secondary {
		c.maybeActivate()
	} else {
		c.tickPrimary()
	}
	c.tickRecovery()
}

// setRole records a change of role.
func (c *Core) setRole(r Role) {
	c.role = r
	if c.cfg.Events.Role != nil {
		c.cfg.Events.Role(r, c.gen)
	}
}
