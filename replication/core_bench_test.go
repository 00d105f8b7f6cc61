package replication

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"blkd/blockdev"
)

// nullReplica keeps nothing but the place of the log's end.
type nullReplica struct {
	Replica
	gen    Generation
	seq    Seq
	commit Seq
}

func (r *nullReplica) Size() int64 { return 1 << 30 }

func (r *nullReplica) Append(entries []blockdev.Entry) error {
	last := &entries[len(entries)-1]
	r.gen, r.seq = last.Gen, last.Seq
	return nil
}
func (r *nullReplica) Commit(seq Seq) error         { r.commit = seq; return nil }
func (r *nullReplica) Last() (Generation, Seq)      { return r.gen, r.seq }
func (r *nullReplica) Committed() Seq               { return r.commit }
func (r *nullReplica) GenAt(Seq) (Generation, bool) { return r.gen, true }
func (r *nullReplica) Keep(Seq)                     {}
func (r *nullReplica) Incomplete() bool             { return false }
func (r *nullReplica) Sessions(Seq) *blockdev.Sessions {
	return new(blockdev.Sessions)
}
func (r *nullReplica) ReadLog(after Seq, _ int) (list []blockdev.Entry, err error) {
	for seq := after + 1; seq <= r.seq; seq++ {
		list = append(list, blockdev.Entry{Gen: r.gen, Seq: seq, Kind: entryMark})
	}
	return list, nil
}
func (r *nullReplica) Promised() (uint64, Generation)       { return 7, 0 }
func (r *nullReplica) Promise(_ uint64, _ Generation) error { return nil }

// benchCore is a primary whose members answer as soon as they are told to.
type benchCore struct {
	b     testing.TB
	core  *Core
	now   Instant
	peers []Member
	e     Effects
	acks  []queue[Message] // by peer, not delivered
	done  func(*Request)
}

func newBenchCore(b testing.TB, peers int) *benchCore {
	c := &benchCore{b: b, now: Instant(time.Hour), acks: make([]queue[Message], peers)}
	c.core = NewCore(Config{Self: "n0", Incarnation: 100, Replica: &nullReplica{}, Gate: &nullReplica{}, Now: c.now, Fresh: true})
	r := &Record{Lineage: 7, Generation: 1, Number: 1, Primary: "n0", PrimaryIncarnation: 100, Policy: AckAll, MinCopies: 1, Durability: DurableFlush,
		Members: []Member{{Node: "n0", Incarnation: 100, State: UpToDate}}}
	for i := range peers {
		m := Member{Node: NodeID(fmt.Sprintf("n%d", i+1)), Incarnation: Incarnation(i + 1), State: UpToDate}
		r.Members = append(r.Members, m)
		c.peers = append(c.peers, m)
		c.core.Connected(c.now, m.Node, WireVersion)
	}
	c.core.Record(c.now, r)
	for range 10 {
		c.take()
		c.deliver(1 << 30)
	}
	if role, _ := c.core.Role(); role != Primary {
		b.Fatalf("it is %s", role)
	}
	return c
}

// take carries out the effects: it makes an answer of each message.
func (c *benchCore) take() {
	c.core.TakeInto(&c.e)
	for i := range c.e.Sends {
		s := &c.e.Sends[i]
		at := int(s.To[1] - '1')
		m := Message{Kind: MsgAck, Lineage: 7, Gen: s.Msg.Gen, From: c.peers[at].Incarnation, To: 100, Lease: s.Msg.Lease}
		switch s.Msg.Kind {
		case MsgSeal:
			m.Kind = MsgSealed
		case MsgAppend:
			m.Held = s.Msg.PrevSeq + Seq(len(s.Msg.Entries))
		default:
			continue
		}
		c.acks[at].push(m)
	}
	for _, r := range c.e.Done {
		if r.Err != nil {
			c.b.Fatal(r.Err)
		}
		c.done(r)
	}
}

// deliver hands the core up to n answers of each peer.
func (c *benchCore) deliver(n int) {
	for i := range c.acks {
		for range min(n, c.acks[i].len()) {
			m := c.acks[i].pop()
			c.core.Receive(c.now, c.peers[i].Node, &m)
			c.take()
		}
	}
}

// BenchmarkCoreWrite measures the core alone: 4 KiB writes at random offsets of
// 1 GiB, from submission to answer.
func BenchmarkCoreWrite(b *testing.B) {
	for _, peers := range []int{1, 2} {
		for _, depth := range []int{1, 32, 128} {
			b.Run(fmt.Sprintf("peers=%d/depth=%d", peers, depth), func(b *testing.B) { benchWrites(b, peers, depth) })
		}
	}
}

func benchWrites(b testing.TB, peers, depth int) {
	c := newBenchCore(b, peers)
	rnd := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, blockSize)
	free := make([]*Request, depth)
	for i := range free {
		free[i] = new(Request)
	}
	c.done = func(r *Request) { free = append(free, r) }
	n := 1 << 14
	if b, ok := b.(*testing.B); ok {
		n = b.N
		b.ReportAllocs()
		b.ResetTimer()
	}
	one := make([]*Request, 1)
	for i := range n {
		for len(free) == 0 {
			c.deliver(1)
		}
		r := free[len(free)-1]
		free = free[:len(free)-1]
		*r = Request{Op: blockdev.OpWrite, Off: rnd.Int64N(1<<18) * blockSize, Len: blockSize, Data: data,
			Origin: blockdev.Origin{Client: 1, Session: 1, Op: uint64(i + 1)}}
		one[0] = r
		c.now += 1000
		c.core.Submit(c.now, one)
		c.take()
	}
}

// TestCoreWriteAllocs keeps writes and their acknowledgements free of garbage.
func TestCoreWriteAllocs(t *testing.T) {
	const writes = 1 << 14
	allocs := testing.AllocsPerRun(3, func() { benchWrites(t, 2, 32) })
	if perWrite := allocs / writes; perWrite > 0.05 {
		t.Errorf("%.2f allocations for each write", perWrite)
	}
}
