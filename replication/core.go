package replication

import (
	"fmt"
	"time"

	"blkd/blockdev"
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
	// Reset makes the replica empty, incomplete, its log ending at (gen, seq).
	Reset(gen Generation, seq Seq) error
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
	// Fresh: this is the first run on this disk, so there is no earlier one.
	Fresh bool
	// Durable: the log was synced up to here when it was opened.
	Durable Seq
	Events  Events
}

// Times are the core's intervals. Zero fields get the defaults.
type Times struct {
	Lease time.Duration // how long a member grants; default 600 ms
	Drift time.Duration // added to a grant and taken from a belief: clock rate error over one lease; default 2 ms
	Probe time.Duration // a silent peer is asked again; default 100 ms
	Drop  time.Duration // a member that answers nothing is dropped after this; default 700 ms
	Retry time.Duration // first pause between attempts of a plan; doubled up to 32 times; default 100 ms
}

func (t Times) withDefaults() Times {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Lease, 600*time.Millisecond)
	set(&t.Drift, 2*time.Millisecond)
	set(&t.Probe, 100*time.Millisecond)
	set(&t.Drop, 700*time.Millisecond)
	set(&t.Retry, 100*time.Millisecond)
	return t
}

// Limits bound what is under way. Zero fields get the defaults.
type Limits struct {
	EntryBytes int64  // largest data entry; default 1 MiB
	SendBytes  int    // catching up: bytes sent ahead of the answers; default 8 MiB
	CopyBytes  int64  // one piece of a full copy; default 256 KiB
	Copies     uint64 // pieces sent ahead of the answers; default 4
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
	if l.Copies == 0 {
		l.Copies = 4
	}
	return l
}

// Events tell what happens, for logs, metrics and traces. Fields may be nil.
type Events struct {
	Role    func(role Role, g Generation)
	Refused func(from NodeID, what string)
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
	Op         blockdev.Op
	FUA        bool
	Off, Len   int64
	Data       []byte
	Attachment uint64 // the number its session was admitted with
	Err        error
	Owner      any // the submitter's; the core leaves it alone

	last Seq            // mutations: the last entry of it; flushes: what must be durable
	gen  Generation     // of the primary that began it
	job  func(*Request) // reads of the core itself: what to do with the data
}

// Send is a message for one node.
type Send struct {
	To  NodeID
	Msg *Message
}

// Proposal asks the quorum for a change of the record: a compare-and-set on
// (Generation, Number).
type Proposal struct {
	ID         uint64
	Generation Generation
	Number     uint64
	Members    []Member // the new list; nil for a promotion
	Promote    NodeID
	PromoteInc Incarnation
	Why        string
}

// Effects is what the caller has to do after a call; see the package comment.
type Effects struct {
	Sends     []Send
	Done      []*Request // answer them; Err is set
	Reads     []*Request // fill Data from the replica, then call Read
	Sync      bool       // sync the replica, then call Synced
	Proposals []Proposal
	// Hangup: close every data connection of the volume without an answer.
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
	copied     uint64 // pieces of the full copy held

	links map[NodeID]link
	role  Role
	gen   Generation // of role, unless it is Secondary
	p     primary

	nextProposal uint64
	failed       error
}

// NewCore makes the core of a replica that was just opened.
func NewCore(cfg Config) *Core {
	c := &Core{cfg: cfg, self: cfg.Self, inc: cfg.Incarnation, disk: cfg.Replica, gate: cfg.Gate,
		times: cfg.Times.withDefaults(), lim: cfg.Limits.withDefaults(), now: cfg.Now, durable: cfg.Durable,
		links: map[NodeID]link{}}
	c.lineage, c.prom = c.gate.Promised()
	if !cfg.Fresh {
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
	*e, c.out = c.out, *e
}

// reset empties e and keeps its memory.
func (e *Effects) reset() {
	clear(e.Sends)
	clear(e.Done)
	clear(e.Reads)
	clear(e.Proposals)
	*e = Effects{Sends: e.Sends[:0], Done: e.Done[:0], Reads: e.Reads[:0], Proposals: e.Proposals[:0]}
}

// Stop ends this run of the replica: what is under way is answered with ErrMoved,
// and nothing is done any more.
func (c *Core) Stop(now Instant) {
	if c.enter(now) {
		c.stepDown("this node is being stopped")
		c.failed = ErrMoved
	}
}

// enter begins a call.
func (c *Core) enter(now Instant) bool {
	if now < c.now {
		panic(fmt.Sprintf("replication: the clock went back from %d to %d", c.now, now))
	}
	c.now = now
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

func (c *Core) send(to NodeID, inc Incarnation, m *Message) {
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
	if !c.enter(now) {
		return
	}
	if c.rec != nil && r.Lineage == c.rec.Lineage && !r.newerThan(c.rec) {
		return
	}
	c.rec = r
	if !c.adoptLineage(r) {
		return
	}
	if c.role != Secondary && (r.Generation != c.gen || r.Primary != c.self || r.PrimaryIncarnation != c.inc) {
		c.stepDown(fmt.Sprintf("the quorum recorded generation %d with primary %s", r.Generation, r.Primary))
	}
	if c.role != Secondary {
		c.recordAsPrimary(r)
		return
	}
	c.maybeActivate()
}

// adoptLineage binds the replica to its first lineage. A replica of another one
// has no standing: it is reset by a join.
func (c *Core) adoptLineage(r *Record) bool {
	if c.lineage == r.Lineage {
		return true
	}
	if _, seq := c.disk.Last(); c.lineage != 0 && (seq != 0 || c.prom != 0) {
		c.stepDown("the volume has a new lineage")
		return false
	}
	if !c.must("promise", c.gate.Promise(r.Lineage, 0)) {
		return false
	}
	c.lineage, c.prom = r.Lineage, 0
	return true
}

// Receive handles a peer's message.
func (c *Core) Receive(now Instant, from NodeID, m *Message) {
	if !c.enter(now) {
		return
	}
	if m.To != c.inc || m.Lineage != c.lineage || m.Lineage == 0 {
		return // for another run or another branch of the volume
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
	case MsgAck, MsgReject, MsgSealed, MsgFetched, MsgJoined:
		c.onAnswer(from, m)
	}
}

// Tick lets time pass. Call it every 20 to 50 ms; leases and retries hang on it.
func (c *Core) Tick(now Instant) {
	if !c.enter(now) {
		return
	}
	c.finishSeal()
	if c.role == Secondary {
		c.maybeActivate()
		return
	}
	c.tickPrimary()
}

// setRole records a change of role.
func (c *Core) setRole(r Role) {
	c.role = r
	if c.cfg.Events.Role != nil {
		c.cfg.Events.Role(r, c.gen)
	}
}
