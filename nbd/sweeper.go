package nbd

import (
	"sync"
	"sync/atomic"
	"time"
)

// sweepEvery is the sweeper's period while there is traffic.
const sweepEvery = 5 * time.Millisecond

// stallBytes is how much, in bytes, a connection that is waited for must move in
// Options.StallTimeout. A byte now and then is no progress.
const stallBytes = 1 << 20

// sweeper looks after connections that hang:
//
//   - A Submit that blocks for long must not hold back the replies of requests that
//     are Done meanwhile: the sweeper hands them to the writer goroutine.
//   - A client that holds buffers without making progress, while others wait for the
//     server's memory, is disconnected.
//
// It sleeps while there is no traffic.
type sweeper struct {
	srv    *Server
	parked atomic.Bool
	wake   chan struct{}
	quit   chan struct{}
	once   sync.Once

	mu      sync.Mutex
	started bool
	conns   map[*conn]*sweepState
}

// sweepState is what the sweeper remembers of a connection.
type sweepState struct {
	seq   uint32
	moved uint64    // when since was set
	since time.Time // of the last progress
}

func (w *sweeper) init(s *Server) {
	w.srv = s
	w.wake, w.quit = make(chan struct{}, 1), make(chan struct{})
	w.conns = map[*conn]*sweepState{}
}

func (w *sweeper) add(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = &sweepState{since: time.Now()}
	if !w.started {
		w.started = true
		go w.run()
	}
}

func (w *sweeper) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

func (w *sweeper) stop() { w.once.Do(func() { close(w.quit) }) }

// noteWork wakes the sweeper if it sleeps. Readers call it for every batch.
func (w *sweeper) noteWork() {
	if w.parked.Load() && w.parked.CompareAndSwap(true, false) {
		w.wake <- struct{}{}
	}
}

func (w *sweeper) run() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.quit:
			return
		}
		if w.sweep(time.Now()) {
			continue
		}
		w.parked.Store(true)
		if w.sweep(time.Now()) && w.parked.CompareAndSwap(true, false) {
			continue // traffic began just then
		}
		tick.Stop()
		select {
		case <-w.wake:
		case <-w.quit:
			return
		}
		tick.Reset(sweepEvery)
	}
}

// sweep looks at every connection once. It tells whether there is a reason to look
// again soon.
func (w *sweeper) sweep(now time.Time) (busy bool) {
	pressed := w.srv.memory.waiting.Load() != 0
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, st := range w.conns {
		q := &c.reply
		seq := q.seq.Load()
		if seq == st.seq && q.role.Load() == roleSubmit && q.role.CompareAndSwap(roleSubmit, roleBusy) {
			q.kick <- struct{}{}
		}
		busy = busy || seq != st.seq
		st.seq = seq
		if p := c.sock.Moved(); p-st.moved >= stallBytes || !c.stalled() {
			st.moved, st.since = p, now
		} else if pressed && now.Sub(st.since) > w.srv.opts.StallTimeout {
			w.srv.log.Warn("nbd: connection closed: it holds memory that others wait for and makes no progress",
				"peer", peerName(c.sock.Conn), "export", c.export.Name, "bytes", c.memory.conn.used.Load())
			c.hangUp()
		}
	}
	return busy || pressed
}

// stalled tells whether the connection waits for its client, not for the device.
func (c *conn) stalled() bool { return c.reply.stuck.Load() || c.receiving.Load() }
