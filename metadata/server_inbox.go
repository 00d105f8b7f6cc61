package metadata

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// Limits of what may wait. A leader has at most maxAppends messages under way to
// a follower.
const (
	maxMessages  = 8 * maxAppends
	maxProposals = 1024
)

// inbox is what waits for the next round.
type inbox struct {
	wake chan struct{} // something waits

	mu   sync.Mutex
	next inboxItems
}

// inboxItems is the contents of one round.
type inboxItems struct {
	messages  []*raftpb.Message
	proposals []*proposal
	calls     []func() // run on the goroutine
	reads     *readBatch
}

func newInbox() inbox { return inbox{wake: make(chan struct{}, 1)} }

// put adds to the next round and wakes.
func (b *inbox) put(add func(*inboxItems)) {
	b.mu.Lock()
	add(&b.next)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (b *inbox) message(m *raftpb.Message) {
	b.put(func(n *inboxItems) {
		if len(n.messages) < maxMessages {
			n.messages = append(n.messages, m)
		}
	})
}

// take empties the inbox.
func (b *inbox) take() inboxItems {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.next
	b.next = inboxItems{}
	return items
}
