package nbd

import (
	"fmt"
	"sync"
	"sync/atomic"

	"blkd/blockdev"
)

// Export is a device under a name.
type Export struct {
	Name        string // at most 4096 bytes; clients ask for it
	Description string // for people; shown by nbdinfo
	Device      blockdev.Device
	// ReadOnly refuses mutations even if the device does not.
	ReadOnly bool
	// HangUp closes the connection, instead of answering ESHUTDOWN, when the
	// device answers ErrClosed. The kernel's client turns any error into EIO,
	// but stalls and lets itself be reconnected when the socket closes.
	HangUp bool
	// Numbered: clients are ours and put the numbers of mutations into their cookies; see
	// DialOptions.
	Numbered bool
	// Open, if set, makes the device of each connection, which is closed when the
	// connection has ended and its requests are done. Device then only tells the
	// size. A client may add parameters to the export's name, behind a semicolon.
	// The text of an error reaches clients that can be told.
	Open func(Opening) (blockdev.Device, error)
}

// Opening is a client's wish to use an export.
type Opening struct {
	Parameters string // "a=1;b=2" of "NAME;a=1;b=2"; may be empty
	// HangUp closes the connection, now or later. It waits for nothing.
	HangUp func()
}

// line lets others end a connection from its handshake on.
type line struct {
	mu   sync.Mutex
	conn *conn
	cut  bool
}

func (l *line) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	if l.conn != nil {
		l.conn.hangUp()
	}
}

// carry says which connection the line is.
func (l *line) carry(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = c
	if l.cut {
		c.hangUp()
	}
}

// validate reports why an export cannot be served.
func (e *Export) validate() error {
	switch {
	case e.Device == nil:
		return fmt.Errorf("nbd: export %q has no device", e.Name)
	case len(e.Name) > maxString || len(e.Description) > maxString:
		return fmt.Errorf("nbd: export name and description may have at most %d bytes, not %d and %d", maxString, len(e.Name), len(e.Description))
	}
	return nil
}

// exportState is an export and the connections that use it.
type exportState struct {
	Export
	total opCounters // of connections that have ended
	conns atomic.Int64
	lat   [numCommands]histogram

	mu   sync.Mutex
	open map[*conn]struct{}
	gone bool // removed: no connection may be added
}

// flags are the transmission flags of a device of the export.
func (e *exportState) flags(mode replyMode, dev blockdev.Device) uint16 {
	f := flagHasFlags | flagSendFlush | flagSendFUA | flagSendTrim | flagSendWriteZeroes |
		flagCanMultiConn | flagSendCache | flagSendFastZero
	if e.ReadOnly || dev.ReadOnly() {
		f |= flagReadOnly
	}
	if mode != modeSimple {
		f |= flagSendDF
	}
	if mode == modeExtended {
		f |= flagBlockStatusFilter
	}
	return f
}

// release closes a device that was made for one connection.
func (e *exportState) release(dev blockdev.Device) {
	if e.Open != nil {
		dev.Close()
	}
}

// add registers a connection, unless the export is gone.
func (e *exportState) add(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return false
	}
	e.open[c] = struct{}{}
	e.conns.Add(1)
	return true
}

// remove folds the counters of a connection that ended into the export's.
func (e *exportState) remove(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.open, c)
	e.total.add(&c.count)
}

// retire closes every connection and refuses new ones.
func (e *exportState) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	for c := range e.open {
		c.hangUp()
	}
}
