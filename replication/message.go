package replication

import "blkd/blockdev"

// Kind is what a message asks or answers.
type Kind uint8

const (
	// MsgAppend carries entries that follow (PrevGen, PrevSeq), the commit
	// point, and maybe asks for a sync or a lease. Without entries it is a
	// heartbeat and a probe.
	MsgAppend Kind = iota + 1
	// MsgAck answers it: entries up to Held match the sender's log, those up to
	// Durable survive power loss. Of an erasure code, Len is the size of that log, bytes.
	MsgAck
	// MsgReject answers a message of an older generation (Promised is higher),
	// or an append that does not fit (then LastGen, LastSeq and Commit say what
	// the log is).
	MsgReject
	// MsgSeal asks to promise Gen and to say where the log ends.
	MsgSeal
	// MsgSealed answers it, once the promise is durable and no lease to an older
	// primary can be alive.
	MsgSealed
	// MsgFetch asks for the entries after PrevSeq.
	MsgFetch
	// MsgFetched answers it; Refused tells that they are not retained.
	MsgFetched
	// MsgJoin asks a node that is not in the set to promise Gen and to say what
	// it has.
	MsgJoin
	// MsgJoined answers it; (PrevGen, PrevSeq) is its last committed entry, or, if
	// Held is PrevSeq, the one up to which its content is good. Of an erasure code,
	// Lease is the batch of which its shard is good.
	MsgJoined
	// MsgReset starts a copy: the joiner's log ends at (PrevGen, PrevSeq), and it
	// becomes empty, or keeps its content up to the entry Commit, if that is not 0; of
	// an erasure code, 1 keeps the shard, and 2 that of batch Lease. Off
	// is the volume's size, and Data the operations that the log held up to there.
	MsgReset
	// MsgCopy carries a piece of committed content that goes under the
	// joiner's log; Copy counts the pieces of this join.
	MsgCopy
	// MsgRelease ends the lease named Lease, and no other.
	MsgRelease
	// MsgCollect asks a member what its log holds, for a recovery from
	// generation Gen; Sync as in MsgAppend.
	MsgCollect
	// MsgCollected answers it; Refused tells that a primary is at work here.
	MsgCollected
	// MsgRead asks a member for Len bytes of committed content at Off, with
	// everything up to Commit; Copy is the number of the question. With Sync, to a
	// member of an erasure-coded volume, for a map of what is data instead, or, with
	// Held, of what has changed since that batch. With Entries, to such a member, for
	// the ranges of its shard that they name, one after the other.
	MsgRead
	// MsgBlock answers it with Data; Refused tells that it cannot, and Incomplete that
	// this is because the block at Off fails its check.
	MsgBlock
	// MsgDigest asks a member to sum up Len bytes of committed content at Off, as
	// MsgRead does; with Sync it reads and checks them first.
	MsgDigest
	// MsgDigested answers it: Lease is the digest. Incomplete tells that something
	// failed its check, Refused that it cannot answer.
	MsgDigested
	// MsgPrepare asks a member of an erasure-coded volume to store Entries in its
	// shard, beside what that has: its part of batch Copy, with everything decided
	// up to Commit done before.
	MsgPrepare
	// MsgPrepared answers it: the part is durable, or it was Refused.
	MsgPrepared
	numKinds
)

var kindNames = [numKinds]string{
	MsgAppend: "append", MsgAck: "ack", MsgReject: "reject", MsgSeal: "seal", MsgSealed: "sealed", MsgFetch: "fetch",
	MsgFetched: "fetched", MsgJoin: "join", MsgJoined: "joined", MsgReset: "reset", MsgCopy: "copy", MsgRelease: "release",
	MsgCollect: "collect", MsgCollected: "collected", MsgRead: "read", MsgBlock: "block",
	MsgDigest: "digest", MsgDigested: "digested", MsgPrepare: "prepare", MsgPrepared: "prepared",
}

// String is the kind's name in logs and traces.
func (k Kind) String() string {
	if k < numKinds && kindNames[k] != "" {
		return kindNames[k]
	}
	return "unknown"
}

// Message is what one node's replica tells another's about one volume. It acts
// only at the incarnation and in the lineage that it names.
//
// Messages of one connection arrive in the order they were sent, without gaps,
// until the connection breaks.
type Message struct {
	Kind    Kind
	Lineage uint64
	Gen     Generation
	From    Incarnation
	To      Incarnation

	PrevGen Generation
	PrevSeq Seq
	Commit  Seq // append: the sender's commit point; answers: the commit point known
	Entries []blockdev.Entry

	Keep  Seq    // append: entries after this are kept, for every member of the set has those before
	Sync  bool   // append: make everything held durable and say so
	Lease uint64 // append: asks for this lease; ack: grants it; release: ends it; 0: none

	Held     Seq
	Durable  Seq
	LastGen  Generation
	LastSeq  Seq
	Promised Generation
	Refused  bool

	// Incomplete: a full copy was begun and not finished; what the log says is
	// not all there.
	Incomplete bool
	Copy       uint64 // copy: number of this piece, from 1; ack: pieces held in order
	Off, Len   int64  // copy: range, bytes; reset: Off is the volume's size
	Data       []byte // copy: content; nil means zeros
}
