package nbd

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	// chunkSize is the size, in bytes, of the buffers that requests are read
	// into and that small replies are built in. 16 KiB halves the throughput of
	// writes; more than this no longer fits the processor's cache.
	chunkSize = 256 << 10
	// headroom precedes the data of every buffer, so that a reply's header lies
	// right before its data, and the data is aligned to a page.
	headroom = 4096

	minClass   = 16 // 64 KiB
	maxClass   = 25 // 32 MiB
	chunkClass = 18
)

// buffer is pooled memory shared by the requests that point into it.
type buffer struct {
	data  []byte // headroom and 1<<class bytes
	class uint8
	refs  atomic.Int32

	// charged bytes go back to the account's budgets with the buffer.
	charged int64
	account *account
}

var bufferPools [maxClass + 1]sync.Pool

// classOf is the size class for n bytes.
func classOf(n int) uint8 {
	return uint8(max(minClass, bits.Len(uint(max(n, 1)-1))))
}

// getBuffer takes a buffer with one reference.
func getBuffer(class uint8) *buffer {
	b, _ := bufferPools[class].Get().(*buffer)
	if b == nil {
		b = &buffer{class: class, data: make([]byte, headroom+1<<class)}
	}
	b.refs.Store(1)
	return b
}

// release drops n references; the last one returns the buffer to its pool.
func (b *buffer) release(n int32) {
	if b.refs.Add(-n) != 0 {
		return
	}
	if b.charged != 0 {
		b.account.give(b.charged)
		b.charged, b.account = 0, nil
	}
	bufferPools[b.class].Put(b)
}

// charge makes the buffer hold n bytes, already taken, of the account's budgets.
func (b *buffer) charge(a *account, n int64) { b.account, b.charged = a, n }

// budget is a limit in bytes shared by everyone who takes from it.
type budget struct {
	limit   int64
	used    atomic.Int64
	waiting atomic.Int32
	mu      sync.Mutex
	freed   chan struct{} // closed at the next give while someone waits
}

func newBudget(limit int64) *budget { return &budget{limit: limit, freed: make(chan struct{})} }

// take tries to take n bytes.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.give(n)
	return false
}

// give returns n bytes and wakes who waits.
func (b *budget) give(n int64) {
	b.used.Add(-n)
	if b.waiting.Load() == 0 {
		return
	}
	b.mu.Lock()
	close(b.freed)
	b.freed = make(chan struct{})
	b.mu.Unlock()
}

// takeWait takes n bytes as soon as there are so many, or fails when quit closes.
func (b *budget) takeWait(n int64, quit <-chan struct{}) bool {
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	for {
		b.mu.Lock()
		freed := b.freed
		b.mu.Unlock()
		if b.used.Add(n) <= b.limit {
			return true
		}
		b.used.Add(-n) // not give: it would wake this loop for ever
		select {
		case <-freed:
		case <-quit:
			return false
		}
	}
}

// account takes from a connection's and the server's budget at once.
type account struct{ conn, server *budget }

func (a *account) give(n int64) {
	a.conn.give(n)
	a.server.give(n)
}

func (a *account) take(n int64) bool {
	if !a.conn.take(n) {
		return false
	}
	if !a.server.take(n) {
		a.conn.give(n)
		return false
	}
	return true
}

func (a *account) takeWait(n int64, quit <-chan struct{}) bool {
	if !a.conn.takeWait(n, quit) {
		return false
	}
	if !a.server.takeWait(n, quit) {
		a.conn.give(n)
		return false
	}
	return true
}
