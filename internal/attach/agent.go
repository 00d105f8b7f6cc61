package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"blkd/metadata/metapb"
	"blkd/nbd"
	"blkd/nbd/kernel"
)

// Cluster is what an agent asks the cluster for.
type Cluster interface {
	// Attach makes the host the holder of the volume, or begins a new session of it:
	// with renew only that. It returns the record. ErrRefused: another client holds
	// the volume. Any other error is worth to be tried again.
	Attach(ctx context.Context, renew, takeover bool) (*metapb.Volume, error)
	// Follow calls f with what nodes tell of the volume's record, newer and older,
	// until ctx ends. The addresses are where the primary's NBD clients connect.
	Follow(ctx context.Context, f func(r *metapb.Volume, addresses []string))
}

// ErrRefused tells that another client holds the volume.
var ErrRefused = errors.New("another client holds the volume")

// ErrTLSRequired tells that the primary serves nobody without TLS.
var ErrTLSRequired = nbd.ErrTLSRequired

// Config says what is attached, and how.
type Config struct {
	Volume      string
	Holder      string // this host
	Index       int    // N of /dev/nbdN; -1: any
	Connections int    // of the kernel to the primary; at least 1
	Relay       bool   // the kernel reaches the primary through this process
	TLS         bool   // to the primary; only with Relay
	// Certificates is a directory as [nbd.URI] has it; may be empty.
	Certificates string
	ReadOnly     bool   // it takes no attachment
	Takeover     bool   // from whoever holds it
	Dir          string // of State
	Cluster      Cluster
	Log          *slog.Logger
	Ready        func(*State) // called once, when the device can be used
	Waits        func(error)  // called with what is waited for, if that takes more than a moment
}

const (
	// manyTimeout is how long a request may take over one of several connections:
	// the kernel gives a connection up that takes longer.
	manyTimeout = 10 * time.Second
	connectTime = 500 * time.Millisecond // a machine that is gone does not answer
	dialTime    = 2 * time.Second
	retryLeast  = 20 * time.Millisecond
	retryMost   = 500 * time.Millisecond
	waitsAfter  = time.Second // the moment of Config.Waits
	// deadWait is how long the kernel may take to see that a link is dead.
	deadWait = 5 * time.Second
)

// Agent keeps one volume attached.
type Agent struct {
	cfg    Config
	ctl    *kernel.Control
	state  State
	record *metapb.Volume // newest
	hosts  []string       // where the primary of it is reached
	heard  chan heard
	conns  []net.Conn // what the kernel uses
	relay  *relay     // of a device that has one, and
	up     *upstream  // how that reaches the primary
	size   int64      // of the device, bytes
}

type heard struct {
	record *metapb.Volume
	hosts  []string
}

// Run attaches the volume and keeps it attached until ctx ends, which leaves the
// device as it is. ErrRunning: another process does that. ErrRefused: another client
// holds the volume; if it took it over, the device was removed. ErrTLSRequired,
// kernel.ErrInUse: there is no device.
func Run(ctx context.Context, cfg Config) error {
	held, err := lock(cfg.Dir, cfg.Volume)
	if err != nil {
		return err
	}
	defer held.Close()
	ctl, err := kernel.Open()
	if err != nil {
		return err
	}
	defer ctl.Close()
	watch, err := kernel.WatchLinks()
	if err != nil {
		return err
	}
	defer watch.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &Agent{cfg: cfg, ctl: ctl, heard: make(chan heard)}
	links := make(chan int)
	go a.watch(ctx, watch, links)
	a.follow(ctx)
	return a.run(ctx, links)
}

// follow listens to what the nodes tell.
func (a *Agent) follow(ctx context.Context) {
	go a.cfg.Cluster.Follow(ctx, func(r *metapb.Volume, hosts []string) {
		select {
		case a.heard <- heard{r, hosts}:
		case <-ctx.Done():
		}
	})
}

// watch passes on which links die.
func (a *Agent) watch(ctx context.Context, w *kernel.Watch, links chan<- int) {
	for {
		index, err := w.Next()
		if err != nil {
			return
		}
		select {
		case links <- index:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) run(ctx context.Context, links <-chan int) error {
	index, adopted := a.adopt()
	if a.cfg.Index >= 0 && index < 0 && kernel.InUse(a.cfg.Index) { // before the volume is taken from anybody
		return fmt.Errorf("%s: %w", kernel.Path(a.cfg.Index), kernel.ErrInUse)
	}
	takeover := a.cfg.Takeover
	for first := true; ; first = false {
		// A device that an earlier agent has left may be at work: it keeps its link
		// until there is a session for another one.
		adopting := adopted && first
		if !adopting {
			if err := a.leave(ctx, links, index, false); err != nil {
				return err
			}
		}
		if err := a.session(ctx, links, !first || adopted, takeover); err != nil {
			if errors.Is(err, ErrRefused) && index >= 0 {
				a.cfg.Log.Error("fenced: the device is removed, and what it had not written fails", "volume", a.cfg.Volume, "device", kernel.Path(index), "err", err)
				err = errors.Join(err, a.ctl.Disconnect(index), remove(a.cfg.Dir, &a.state))
			}
			return err
		}
		takeover = false
		if adopting {
			if err := a.leave(ctx, links, index, true); err != nil {
				return err
			}
		}
		if err := a.connect(ctx, links, &index); err != nil {
			return err
		}
		if first {
			a.cfg.Ready(&a.state)
		}
		if err := a.stay(ctx, links, index); err != nil {
			return err
		}
	}
}

// adopt finds the device that an earlier agent has left.
func (a *Agent) adopt() (index int, ok bool) {
	s, err := Load(a.cfg.Dir, a.cfg.Volume)
	if err != nil {
		return -1, false
	}
	n, err := kernel.Index(s.Device)
	if err != nil || s.Backend == "" || kernel.Backend(n) != s.Backend {
		return -1, false
	}
	a.state = *s
	a.size, _ = kernel.Size(n)
	a.cfg.Log.Info("taking the device over from an earlier agent", "volume", s.Volume, "device", s.Device, "pid", s.PID)
	return n, true
}

// leave ends the link of the device, so that the kernel takes a new one. With a relay
// the kernel keeps its link.
func (a *Agent) leave(ctx context.Context, links <-chan int, index int, adopted bool) error {
	if a.up != nil {
		a.up.close()
		a.up = nil
	}
	if index < 0 || a.relay != nil {
		return nil
	}
	if adopted {
		for _, ends := range a.state.Sockets {
			if err := destroy(ends); err != nil {
				a.cfg.Log.Debug("a connection of the earlier agent", "ends", ends, "err", err)
			}
		}
	}
	alive := len(a.conns) > 0 || adopted
	for _, c := range a.conns {
		shutdown(c)
	}
	a.conns = nil
	if !alive {
		return nil
	}
	limit := time.After(deadWait)
	if adopted {
		limit = time.After(retryMost) // it may have died long ago
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h := <-a.heard:
			a.learn(h)
		case n := <-links:
			if n == index {
				return nil
			}
		case <-limit:
			return nil
		}
	}
}

// learn keeps the newest record.
func (a *Agent) learn(h heard) {
	if h.record != nil && (a.record == nil || h.record.Number >= a.record.Number || h.record.Id > a.record.Id) {
		a.record, a.hosts = h.record, h.hosts
	}
}

// session gets the number for what is sent from now on.
func (a *Agent) session(ctx context.Context, links <-chan int, renew, takeover bool) error {
	if a.cfg.ReadOnly {
		return nil
	}
	return a.retry(ctx, links, "the quorum does not answer", func() error {
		r, err := a.cfg.Cluster.Attach(ctx, renew, takeover)
		if err != nil {
			return err
		}
		a.state.Attachment, a.state.Since = r.Attachment.Number, r.Attachment.Since
		return nil
	})
}

// errNoDevice tells that the kernel makes no device.
var errNoDevice = errors.New("the kernel makes no device")

// hopeless tells whether trying again does not help: another client holds the volume, or,
// while there is no device yet that could wait, there will be none.
func (a *Agent) hopeless(err error) bool {
	return errors.Is(err, ErrRefused) || a.state.Device == "" && (errors.Is(err, ErrTLSRequired) || errors.Is(err, errNoDevice))
}

// retry does something until it works, ctx ends, or it is hopeless.
// Meanwhile it goes on to listen.
func (a *Agent) retry(ctx context.Context, links <-chan int, what string, do func() error) error {
	pause := retryLeast
	var said, waited string
	began := time.Now()
	for {
		err := do()
		if err == nil || a.hopeless(err) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if err.Error() != said {
			said = err.Error()
			a.cfg.Log.Warn(what+"; the device waits", "volume", a.cfg.Volume, "err", err)
		}
		if text := err.Error(); text != waited && time.Since(began) > waitsAfter {
			waited = text
			a.cfg.Waits(fmt.Errorf("%s: %w", what, err))
		}
		timer := time.After(pause)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case h := <-a.heard:
				a.learn(h)
				waiting = false
			case <-links:
			case <-timer:
				waiting = false
			}
		}
		pause = min(2*pause, retryMost)
	}
}

// connect gives the device connections to the primary, or makes it.
func (a *Agent) connect(ctx context.Context, links <-chan int, index *int) error {
	return a.retry(ctx, links, "the primary cannot be reached", func() error {
		if !a.cfg.ReadOnly && a.record != nil && !a.record.Shared && a.record.Attachment.Number > a.state.Attachment {
			// The answer to an earlier question of this agent has come late.
			r, err := a.cfg.Cluster.Attach(ctx, true, false)
			if err != nil {
				return err
			}
			a.state.Attachment, a.state.Since = r.Attachment.Number, r.Attachment.Since
		}
		way := a.connectKernel
		if a.cfg.Relay {
			way = a.connectRelay
		}
		if err := way(ctx, index); err != nil {
			return err
		}
		return a.note(kernel.Path(*index))
	})
}

// connectKernel connects the kernel to the primary.
func (a *Agent) connectKernel(ctx context.Context, index *int) error {
	conns, first, err := a.dial(ctx)
	if err != nil {
		return err
	}
	if err := a.hand(conns, first, index); err != nil {
		closed(conns)
		return err
	}
	a.conns = conns
	return nil
}

// connectRelay connects the relay to the primary, and the kernel to the relay if it
// is not.
func (a *Agent) connectRelay(ctx context.Context, index *int) error {
	up, err := a.dialRelay(ctx)
	if err != nil {
		return err
	}
	if a.relay != nil {
		a.relay.use(up)
		a.fit(*index, up.Size())
	} else if err := a.plug(ctx, up, index); err != nil {
		up.close()
		return err
	}
	a.up = up
	return nil
}

// plug makes a relay and gives the kernel its connection to it.
func (a *Agent) plug(ctx context.Context, up *upstream, index *int) error {
	r, err := newRelay(a.cfg.Volume, up.Size(), a.cfg.ReadOnly)
	if err != nil {
		return err
	}
	r.use(up)
	first, err := r.plug(ctx)
	if err == nil {
		err = a.hand([]net.Conn{first.Conn}, first, index)
	}
	if err != nil {
		r.close()
		return err
	}
	a.relay, a.conns = r, []net.Conn{first.Conn}
	return nil
}

// hand gives the kernel connections.
func (a *Agent) hand(conns []net.Conn, first *nbd.Negotiated, index *int) error {
	var fds []int
	for _, c := range conns {
		fd, err := descriptor(c)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	if *index >= 0 {
		if err := a.ctl.Reconfigure(*index, a.state.Backend, fds); err != nil {
			return err
		}
		a.fit(*index, first.SizeBytes)
		return nil
	}
	timeout := time.Duration(0)
	if len(fds) > 1 {
		timeout = manyTimeout
	}
	backend := "blkd/" + fmt.Sprint(a.record.Id) + "/" + a.cfg.Volume
	n, err := a.ctl.Connect(kernel.Device{Index: a.cfg.Index, SizeBytes: first.SizeBytes, BlockSize: int(a.record.BlockBytes),
		Flags: first.Flags, Backend: backend, Timeout: timeout, Sockets: fds})
	if err != nil {
		return fmt.Errorf("%w: %w", errNoDevice, err)
	}
	*index, a.state.Backend, a.size = n, backend, first.SizeBytes
	if err := kernel.Tune(n, timeout); err != nil {
		return err
	}
	if err := link(a.cfg.Volume, kernel.Path(n)); err != nil {
		a.cfg.Log.Warn("there is no device by name", "volume", a.cfg.Volume, "err", err)
	}
	return kernel.Announce(n)
}

// fit gives the device the volume's size.
func (a *Agent) fit(index int, bytes int64) {
	if bytes == a.size {
		return
	}
	if err := a.ctl.Resize(index, a.state.Backend, bytes); err != nil {
		a.cfg.Log.Warn("the device keeps its size", "volume", a.cfg.Volume, "err", err)
		return
	}
	a.cfg.Log.Info("the volume has another size", "volume", a.cfg.Volume, "from_bytes", a.size, "to_bytes", bytes)
	a.size = bytes
}

// note writes down how the device is connected.
func (a *Agent) note(device string) error {
	s := &a.state
	s.Volume, s.Holder, s.Device, s.ReadOnly, s.PID = a.cfg.Volume, a.cfg.Holder, device, a.cfg.ReadOnly, os.Getpid()
	s.Relay = a.relay != nil
	s.Generation, s.Primary, s.Sockets = a.record.Generation, a.record.Primary, nil
	for _, c := range a.conns {
		if e := ends(c); e != "" {
			s.Sockets = append(s.Sockets, e)
		}
	}
	a.cfg.Log.Info("connected", "volume", s.Volume, "device", s.Device, "primary", s.Primary, "generation", s.Generation, "attachment", s.Attachment)
	return s.save(a.cfg.Dir)
}

// known tells whether it is known where the primary is.
func (a *Agent) known() error {
	switch {
	case a.record == nil:
		return errors.New("no node has told yet where the volume is")
	case a.record.Primary == "" || len(a.hosts) == 0:
		return errors.New("the volume has no primary, or that serves no NBD clients")
	}
	return nil
}

// dialRelay connects a relay to the primary of the newest record.
func (a *Agent) dialRelay(ctx context.Context) (*upstream, error) {
	if err := a.known(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var errs []error
	for _, host := range a.hosts {
		u := &upstream{}
		client, err := nbd.Dial(ctx, a.uri(host), nbd.DialOptions{HandshakeTimeout: dialTime, Dial: func(ctx context.Context, network, address string) (_ net.Conn, err error) {
			u.conn, err = (&net.Dialer{Timeout: connectTime}).DialContext(ctx, network, address)
			return u.conn, err
		}})
		if err == nil {
			u.Client = client
			return u, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dial connects the kernel to the primary of the newest record.
func (a *Agent) dial(ctx context.Context) (conns []net.Conn, first *nbd.Negotiated, err error) {
	if err := a.known(); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var errs []error
	for _, host := range a.hosts {
		for range a.cfg.Connections {
			n, err := nbd.Negotiate(ctx, a.uri(host), nbd.DialOptions{HandshakeTimeout: dialTime, Dial: (&net.Dialer{Timeout: connectTime}).DialContext})
			if err != nil {
				errs = append(errs, err)
				break
			}
			conns = append(conns, n.Conn)
			if first == nil {
				first = n
			}
			if !n.MultiConn {
				break
			}
		}
		if len(conns) == a.cfg.Connections {
			return conns, first, nil
		}
		conns, first = closed(conns), nil
	}
	return nil, nil, errors.Join(errs...)
}

// uri is the export of the volume at an address of the primary, with the token.
func (a *Agent) uri(host string) string {
	export := fmt.Sprintf("%s;attachment=%d-%d", a.cfg.Volume, a.record.Id, a.state.Attachment)
	if a.cfg.ReadOnly {
		export = a.cfg.Volume + ";read-only"
	}
	u := nbd.URI{Network: "tcp", Address: host, Export: export, TLS: a.cfg.TLS, Certificates: a.cfg.Certificates}
	if filepath.IsAbs(host) {
		u.Network, u.TLS = "unix", false // it leaves this host in no case
	}
	return u.String()
}

// stay returns when the device needs another link: its own has died, or the volume is
// served elsewhere. A primary that stands still lets no link die.
func (a *Agent) stay(ctx context.Context, links <-chan int, index int) error {
	var lost <-chan struct{}
	if a.up != nil {
		lost = a.up.Lost()
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lost:
			a.cfg.Log.Warn("the connection to the primary has died", "volume", a.cfg.Volume, "primary", a.state.Primary)
			return nil
		case n := <-links:
			if n == index {
				a.cfg.Log.Warn("the connection of the kernel has died", "volume", a.cfg.Volume, "primary", a.state.Primary)
				a.unplug()
				return nil
			}
		case h := <-a.heard:
			a.learn(h)
			switch r := a.record; {
			case r.Generation > a.state.Generation || r.Primary != a.state.Primary:
				a.cfg.Log.Info("the volume moves", "volume", a.cfg.Volume, "from", a.state.Primary, "to", r.Primary, "generation", r.Generation)
				return nil
			case !a.cfg.ReadOnly && r.Attachment.Since > a.state.Attachment:
				return nil // it is fenced: the next session is refused
			}
			if a.up != nil && a.up.Size() != a.record.SizeBytes {
				return nil // a connection knows the size of before
			}
			a.fit(index, a.record.SizeBytes)
		}
	}
}

// unplug forgets the link that the kernel has lost.
func (a *Agent) unplug() {
	a.conns = closed(a.conns)
	if a.relay != nil {
		a.relay.close()
		a.relay = nil
	}
}

func closed(conns []net.Conn) []net.Conn {
	for _, c := range conns {
		c.Close()
	}
	return nil
}

const byName = "/dev/blkd/by-name"

// link makes the device known by the volume's name where no udev does.
func link(volume, device string) error {
	if err := os.MkdirAll(byName, 0o755); err != nil {
		return err
	}
	name := filepath.Join(byName, volume)
	if now, err := os.Readlink(name); err == nil && (now == device || filepath.Join(byName, now) == device) {
		return nil
	}
	if err := os.Symlink(device, name+".new"); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Rename(name+".new", name)
}

// remove forgets an attachment whose device is gone.
func remove(dir string, s *State) error {
	name := filepath.Join(byName, s.Volume)
	if now, err := os.Readlink(name); err == nil && (now == s.Device || filepath.Join(byName, now) == s.Device) {
		os.Remove(name)
	}
	os.Remove(EnvFile(dir, s.Volume)) // there may be none
	return os.Remove(stateFile(dir, s.Volume))
}

// ErrInUse tells that a device is mounted, or open in another way.
var ErrInUse = errors.New("it is in use: unmount it first")

// stopTime is how long an agent may take to end.
const stopTime = 5 * time.Second

// Detach ends the agent of a volume on this host and removes the device. Unless
// forced, it leaves a device alone that is in use: what was not written would be lost.
func Detach(dir, volume string, force bool) (*State, error) {
	s, err := Load(dir, volume)
	if err != nil {
		return nil, err
	}
	index, err := kernel.Index(s.Device)
	if err != nil { // a file of FUSE
		if err := unmount(s, force); err != nil {
			return nil, err
		}
		return s, stopAgent(dir, s)
	}
	ours := kernel.Backend(index) == s.Backend
	if ours && !force {
		f, err := os.OpenFile(s.Device, os.O_RDONLY|syscall.O_EXCL, 0)
		if errors.Is(err, syscall.EBUSY) {
			return nil, fmt.Errorf("%s: %w", s.Device, ErrInUse)
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return nil, fmt.Errorf("flush %s: %w", s.Device, err)
		}
	}
	if err := stopAgent(dir, s); err != nil {
		return nil, err
	}
	if ours {
		ctl, err := kernel.Open()
		if err != nil {
			return nil, err
		}
		defer ctl.Close()
		if err := ctl.Disconnect(index); err != nil {
			return nil, err
		}
	}
	return s, remove(dir, s)
}

// stopAgent ends the agent, if one runs.
func stopAgent(dir string, s *State) error {
	for began := time.Now(); ; time.Sleep(retryLeast) {
		f, err := lock(dir, s.Volume)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, ErrRunning) {
			return err
		}
		if time.Since(began) > stopTime {
			return fmt.Errorf("process %d, which keeps volume %s attached, does not end", s.PID, s.Volume)
		}
		if now, err := Load(dir, s.Volume); err == nil {
			s.PID = now.PID
		}
		if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
}
