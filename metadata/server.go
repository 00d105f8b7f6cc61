package metadata

import (
	"errors"
	"fmt"
	"sync"

	"blkd/internal/env"

	"go.etcd.io/raft/v3/raftpb"
)

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	CoreConfig
	Clock env.Clock
	// Send hands messages to the network, in order for each receiver. It is
	// called by one goroutine, must not block and may drop messages. They must
	// not be changed.
	Send func([]*raftpb.Message)
	// Tick is Raft's unit of time; 0: 50 ms.
	Tick env.Duration
}

// Server is a Core behind one goroutine. All methods are safe for concurrent use.
//
// Everything that waits when a round begins goes into it together: many proposals
// cost one sync of the disk.
type Server struct {
	config ServerConfig
	core   *Core // of the goroutine; others read its state under stateLock

	stateLock sync.RWMutex
	inbox     inbox
	slots     chan struct{} // one for each proposal under way
	failed    chan error

	stop     sync.Once
	stopping chan struct{}
	done     chan struct{} // the goroutine has ended

	pub struct {
		sync.Mutex
		status  ServerStatus
		changed chan struct{}
		err     error // why the goroutine ended
	}

	// Of the goroutine alone.
	waiting  proposals
	confs    confWaits
	readers  readWaits
	transfer []*transferWait
	led      uint64 // the term in which this member was leader after the last round; 0: it was not
	lead     uint64 // who was leader
}

// ErrStopped ends calls of a Server that was stopped.
var ErrStopped = errors.New("this node is being stopped")

// NotLeaderError tells who may be asked instead.
type NotLeaderError struct {
	Leader uint64 // Raft id; 0: unknown
}

// Error names the leader.
func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return "the quorum has no leader that this node knows"
	}
	return fmt.Sprintf("the leader of the quorum is the node with Raft id %d", e.Leader)
}

// NewServer starts a member. It takes part in Raft from now on.
func NewServer(config ServerConfig) (*Server, error) {
	if config.Clock == nil || config.Send == nil {
		return nil, errors.New("metadata: a Server needs a clock and a way to send")
	}
	if config.Tick == 0 {
		config.Tick = 50 * env.Millisecond
	}
	core, err := NewCore(config.CoreConfig)
	if err != nil {
		return nil, err
	}
	config.CoreConfig = core.config
	s := &Server{
		config: config, core: core,
		inbox: newInbox(), slots: make(chan struct{}, maxProposals), failed: make(chan error, 1),
		stopping: make(chan struct{}), done: make(chan struct{}),
		waiting: make(proposals), confs: make(confWaits), readers: newReadWaits(),
	}
	s.pub.changed = make(chan struct{})
	s.publish(false)
	go s.run()
	return s, nil
}

// run is the goroutine.
func (s *Server) run() {
	defer close(s.done)
	ticker := s.config.Clock.NewTicker(s.config.Tick)
	defer ticker.Stop()
	err := s.round(false) // applies what the log says is committed
	for err == nil {
		select {
		case <-s.stopping:
			err = ErrStopped
		case <-ticker.C():
			err = s.round(true)
		case <-s.inbox.wake:
			err = s.round(false)
		}
	}
	s.end(err)
}

// round does everything that waits.
func (s *Server) round(tick bool) error {
	if tick {
		s.core.Tick()
	}
	in := s.inbox.take()
	for _, m := range in.messages {
		if err := s.core.Step(m); err != nil && s.core.log.Err() != nil {
			return err
		}
	}
	s.settle()
	for _, p := range in.proposals {
		s.propose(p)
	}
	for _, call := range in.calls {
		call()
	}
	if err := s.read(in.reads, tick); err != nil {
		return err
	}
	out, err := s.core.process(s.config.Send, &s.stateLock)
	s.waiting.answer(out.Applied)
	s.confs.answer(out.Confs)
	s.readers.answer(out.Reads)
	if err != nil {
		return err
	}
	s.settle()
	s.settleTransfer()
	s.publish(out.Changed)
	return nil
}

// settle ends what waited for a leader's answer if this member leads no longer,
// or in another term: what became of it is unknown here.
func (s *Server) settle() {
	st := s.core.raw.BasicStatus()
	led := uint64(0)
	if st.Lead == s.config.ID {
		led = st.GetTerm()
	}
	if led != s.led {
		s.led = led
		s.waiting.drop(ErrDropped)
		s.confs.drop(ErrDropped)
	}
	if st.Lead != s.lead {
		s.lead = st.Lead
		s.readers.again = true
	}
}

// end tells everybody that waits, or will, that there is no answer any more.
func (s *Server) end(err error) {
	s.pub.Lock()
	s.pub.err = err
	s.pub.status.Leader, s.pub.status.Followers = 0, nil
	close(s.pub.changed)
	s.pub.changed = make(chan struct{})
	s.pub.Unlock()
	s.waiting.drop(err)
	s.confs.drop(err)
	for _, t := range s.transfer {
		t.done <- err
	}
	if err != ErrStopped { //nolint:errorlint // set by run itself
		s.config.Logger.Error("this node steps aside from the metadata quorum", "error", err)
		s.failed <- err
	}
}

// err is why the goroutine has ended. It is set before done is closed.
func (s *Server) err() error {
	s.pub.Lock()
	defer s.pub.Unlock()
	return s.pub.err
}

// Failed delivers the error, once, after which this member takes part in nothing
// any more: its disk has failed or is full. The other members go on without it.
// Other calls return the same error.
func (s *Server) Failed() <-chan error { return s.failed }

// Stop ends the member and returns when its goroutine has ended. It hands nothing
// over, and leaves the Log open.
func (s *Server) Stop() {
	s.stop.Do(func() { close(s.stopping) })
	<-s.done
}

// Step takes in a message of another member, which must not be changed any more.
// It never waits: when too much is waiting the message is dropped, as a network
// would.
func (s *Server) Step(m *raftpb.Message) { s.inbox.message(m) }

// View lets f look at the state of this member, which may be old; use ReadIndex
// before for one that is not. Nothing is applied meanwhile, so f must be short.
func (s *Server) View(f func(*State)) {
	s.stateLock.RLock()
	defer s.stateLock.RUnlock()
	f(s.core.state)
}

// Changed is closed at the next change of the state or of the leader.
func (s *Server) Changed() <-chan struct{} {
	s.pub.Lock()
	defer s.pub.Unlock()
	return s.pub.changed
}
