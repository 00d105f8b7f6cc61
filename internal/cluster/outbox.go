package cluster

import (
	"slices"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Limits of an outbox. Raft repeats what it misses, so that a peer that does not
// read costs memory up to here and no more.
const (
	outboxMessages = 4096
	outboxBytes    = 64 << 20
)

// outbox holds the Raft messages for one peer until its stream takes them. When
// it is full the oldest are dropped: they are the ones that Raft has given up.
type outbox struct {
	wake chan struct{} // holds a token while there may be messages

	mu      sync.Mutex
	queue   []*raftpb.Message
	bytes   int
	dropped uint64
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

// push adds messages; it never waits.
func (o *outbox) push(m *raftpb.Message) {
	o.mu.Lock()
	o.queue = append(o.queue, m)
	o.bytes += proto.Size(m)
	drop := 0
	for drop < len(o.queue)-1 && (len(o.queue)-drop > outboxMessages || o.bytes > outboxBytes) {
		o.bytes -= proto.Size(o.queue[drop])
		drop++
	}
	o.queue = slices.Delete(o.queue, 0, drop)
	o.dropped += uint64(drop)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take empties the outbox.
func (o *outbox) take() []*raftpb.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	queue := o.queue
	o.queue, o.bytes = nil, 0
	return queue
}
