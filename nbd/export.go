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

// flags are the transmission flags.
func (e *exportState) flags(mode replyMode) uint16 {
	f := flagHasFlags | flagSendFlush | flagSendFUA | flagSendTrim | flagSendWriteZeroes |
		flagCanMultiConn | flagSendCache | flagSendFastZero
	if e.ReadOnly || e.Device.ReadOnly() {
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
