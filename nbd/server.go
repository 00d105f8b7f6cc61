package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("nbd: server closed")

// Server serves exports to NBD clients. Its methods are safe for concurrent use.
type Server struct {
	opts    Options
	log     *slog.Logger
	memory  *budget
	sweeper sweeper

	accepted, refused atomic.Int64
	running           sync.WaitGroup // one for each connection

	mu        sync.Mutex
	exports   map[string]*exportState
	listeners map[net.Listener]struct{}
	halfOpen  halfOpen
	conns     map[*conn]struct{}
	closing   bool
}

// NewServer makes a server without exports. Options.Logger and limits that are
// zero get defaults.
func NewServer(opts Options) *Server {
	opts = opts.withDefaults()
	s := &Server{
		opts: opts, log: opts.Logger, memory: newBudget(opts.MaxServerBytes),
		exports: map[string]*exportState{}, listeners: map[net.Listener]struct{}{},
		conns: map[*conn]struct{}{},
	}
	s.sweeper.init(s)
	return s
}

// SetExport adds an export, or replaces the one of that name. Connections to a
// replaced export are closed, so that clients see the new one.
func (s *Server) SetExport(e Export) error {
	if err := e.validate(); err != nil {
		return err
	}
	state := &exportState{Export: e, open: map[*conn]struct{}{}}
	s.mu.Lock()
	old := s.exports[e.Name]
	s.exports[e.Name] = state
	s.mu.Unlock()
	if old != nil {
		old.retire()
	}
	return nil
}

// RemoveExport takes an export away and closes its connections; it tells whether
// there was one. Requests that the device has not answered yet are not waited for.
func (s *Server) RemoveExport(name string) bool {
	s.mu.Lock()
	old := s.exports[name]
	delete(s.exports, name)
	s.mu.Unlock()
	if old != nil {
		old.retire()
	}
	return old != nil
}

// find returns the export of a name, nil if there is none, and the parameters that the
// name ends with. The empty name is the default export: the only one there is.
func (s *Server) find(name string) (*exportState, string) {
	e, parameters := s.known(name)
	if e == nil && s.opts.Find != nil {
		base, _, _ := strings.Cut(name, ";")
		s.opts.Find(base)
		e, parameters = s.known(name)
	}
	return e, parameters
}

func (s *Server) known(name string) (*exportState, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exports[name]; e != nil {
		return e, ""
	}
	name, parameters, given := strings.Cut(name, ";")
	e := s.exports[name]
	if name == "" && len(s.exports) == 1 {
		for _, e = range s.exports {
		}
	}
	if e != nil && given && e.Open == nil {
		return nil, ""
	}
	return e, parameters
}

// list returns the exports in the order of their names.
func (s *Server) list() []*exportState {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*exportState, 0, len(s.exports))
	for _, e := range s.exports {
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Stats returns the server's counters.
func (s *Server) Stats() Stats {
	st := Stats{Accepted: s.accepted.Load(), Refused: s.refused.Load(), BufferBytes: s.memory.used.Load()}
	for _, e := range s.list() {
		st.Exports = append(st.Exports, e.stats())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Connections, st.Handshakes = len(s.conns), s.halfOpen.len()
	return st
}

// Serve accepts connections until the listener fails or the server is closed; then
// it returns ErrServerClosed. It closes the listener. Several may run at once.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for delay := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			delay = 0
			s.start(nc)
		case s.isClosing():
			return ErrServerClosed
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("nbd: listener %s: %w", l.Addr(), err)
		default: // out of descriptors, or a peer that left while in the backlog
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("nbd: cannot accept a connection; trying again", "listener", l.Addr().String(), "err", err)
			time.Sleep(delay)
		}
	}
}

// ServeConn serves one connection, which may be anything that is a net.Conn, and
// closes it. It returns when the connection is done.
func (s *Server) ServeConn(nc net.Conn) {
	if s.register(nc) {
		s.serveConn(nc)
	}
}

func (s *Server) start(nc net.Conn) {
	if s.register(nc) {
		go s.serveConn(nc)
	}
}

// register counts a connection as half open.
func (s *Server) register(nc net.Conn) bool {
	s.accepted.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		nc.Close()
		return false
	}
	s.running.Add(1)
	if evicted := s.halfOpen.add(nc, s.opts.MaxHandshakes); evicted != nil {
		evicted.Close()
	}
	return true
}

func (s *Server) serveConn(nc net.Conn) {
	defer s.running.Done()
	defer nc.Close()
	c, err := s.negotiate(nc)
	s.mu.Lock()
	s.halfOpen.remove(nc)
	if err == nil && c != nil {
		switch {
		case s.closing:
			c.release()
			c = nil
		case len(s.conns) >= s.opts.MaxConnections:
			err = fmt.Errorf("%d connections are open already (Options.MaxConnections)", len(s.conns))
		default:
			s.conns[c] = struct{}{}
		}
	}
	s.mu.Unlock()
	if err != nil {
		if c != nil {
			c.release()
		}
		s.refuse(nc, nil, err)
		return
	}
	if c == nil {
		return
	}
	if err := c.serve(); err != nil {
		s.refuse(nc, c, err)
	}
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// refuse logs why a connection ends.
func (s *Server) refuse(nc net.Conn, c *conn, err error) {
	s.refused.Add(1)
	attrs := []any{"peer", peerName(nc), "err", err}
	if c != nil {
		attrs = append(attrs, "export", c.export.Name)
	}
	s.log.Warn("nbd: connection closed", attrs...)
}

// peerName is the remote address; Unix sockets of clients have none.
func peerName(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return "local"
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// stop refuses new connections and ends those without an export.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for l := range s.listeners {
		l.Close()
	}
	s.halfOpen.closeAll()
}

// Shutdown stops accepting, lets every connection finish the requests it has
// received, and closes it. When ctx ends first, Shutdown closes what is left, waits
// for nothing more and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	s.mu.Lock()
	for c := range s.conns {
		c.finish()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.sweeper.stop()
		return nil
	case <-ctx.Done():
		s.Close()
		return fmt.Errorf("nbd: shutdown: connections closed with requests in flight: %w", ctx.Err())
	}
}

// Close closes all listeners and connections at once and waits for nothing: replies
// to requests in flight are lost.
func (s *Server) Close() error {
	s.stop()
	s.mu.Lock()
	for c := range s.conns {
		c.hangUp()
	}
	s.mu.Unlock()
	s.sweeper.stop()
	return nil
}
