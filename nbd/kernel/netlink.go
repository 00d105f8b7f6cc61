package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// The protocol is that of linux/nbd-netlink.h.
const (
	family  = "nbd"
	version = 1
	group   = "nbd_mc_group"
)

const (
	commandConnect     = 1
	commandDisconnect  = 2
	commandReconfigure = 3
	commandLinkDead    = 4
)

const (
	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrClientFlags = 6
	attrSockets     = 7
	attrDeadTimeout = 8
	attrBackend     = 10

	sockItem = 1
	sockFD   = 1
)

// deadTimeout is how long requests wait for a new link before they fail.
const deadTimeout = 24 * time.Hour

// ErrNoModule tells that the kernel has no NBD client, or has not loaded it.
var ErrNoModule = errors.New("this kernel has no NBD client: load it with modprobe nbd")

// ErrInUse tells that a device has a link already.
var ErrInUse = errors.New("the device is in use")

// Control is a connection to the driver. Its methods are safe for concurrent use.
type Control struct {
	conn   *genetlink.Conn
	family genetlink.Family
}

// Open connects to the driver.
func Open() (*Control, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("generic netlink: %w", err)
	}
	f, err := conn.GetFamily(family)
	if err != nil {
		conn.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNoModule
		}
		return nil, fmt.Errorf("generic netlink family %s: %w", family, err)
	}
	return &Control{conn, f}, nil
}

// Close ends the connection; devices stay.
func (c *Control) Close() error { return c.conn.Close() }

// Device says what a device is to be.
type Device struct {
	Index     int    // N of /dev/nbdN; -1: any that is free
	SizeBytes int64  // a multiple of BlockSize
	BlockSize int    // 512 to 4096 bytes; the logical and physical sector size
	Flags     uint16 // transmission flags of the handshake
	// Backend names what is behind the device. Reconfigure has to name the same.
	Backend string
	// Timeout is how long a request may take before its connection is given up;
	// 0: for ever. More than one socket needs one.
	Timeout time.Duration
	// Sockets are connected and have done the handshake, with simple replies. The
	// kernel takes a reference to each.
	Sockets []int
}

// Connect makes a device and returns its index.
func (c *Control) Connect(d Device) (int, error) {
	ae := netlink.NewAttributeEncoder()
	if d.Index >= 0 {
		ae.Uint32(attrIndex, uint32(d.Index))
	}
	ae.Uint64(attrSize, uint64(d.SizeBytes))
	ae.Uint64(attrBlockSize, uint64(d.BlockSize))
	ae.Uint64(attrServerFlags, uint64(d.Flags))
	ae.Uint64(attrClientFlags, 0)
	ae.Uint64(attrTimeout, uint64(d.Timeout/time.Second))
	ae.Uint64(attrDeadTimeout, uint64(deadTimeout/time.Second))
	ae.String(attrBackend, d.Backend)
	sockets(ae, d.Sockets)
	answers, err := c.execute(commandConnect, ae, netlink.Request) // an answer is proof enough
	switch {
	case errors.Is(err, syscall.EBUSY) && d.Index >= 0:
		return 0, fmt.Errorf("/dev/nbd%d: %w", d.Index, ErrInUse)
	case errors.Is(err, syscall.EPERM):
		return 0, fmt.Errorf("the kernel lets only root attach devices: %w", err)
	case err != nil:
		return 0, fmt.Errorf("connect a device: %w", err)
	}
	for _, a := range answers {
		if index, ok := indexOf(a.Data); ok {
			return index, nil
		}
	}
	return 0, errors.New("the kernel did not say which device it has connected")
}

// Reconfigure gives a device new sockets, when its link is dead. While it is not,
// the kernel says the same and lets them go.
func (c *Control) Reconfigure(index int, backend string, fds []int) error {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(attrIndex, uint32(index))
	ae.String(attrBackend, backend)
	sockets(ae, fds)
	if _, err := c.execute(commandReconfigure, ae, acknowledged); err != nil {
		return fmt.Errorf("give /dev/nbd%d new connections: %w", index, err)
	}
	return nil
}

// Resize changes the size of a device.
func (c *Control) Resize(index int, backend string, bytes int64) error {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(attrIndex, uint32(index))
	ae.String(attrBackend, backend)
	ae.Uint64(attrSize, uint64(bytes))
	if _, err := c.execute(commandReconfigure, ae, acknowledged); err != nil {
		return fmt.Errorf("resize /dev/nbd%d: %w", index, err)
	}
	return nil
}

// Disconnect removes a device. Requests that wait fail.
func (c *Control) Disconnect(index int) error {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(attrIndex, uint32(index))
	if _, err := c.execute(commandDisconnect, ae, acknowledged); err != nil {
		return fmt.Errorf("disconnect /dev/nbd%d: %w", index, err)
	}
	return nil
}

func sockets(ae *netlink.AttributeEncoder, fds []int) {
	ae.Nested(attrSockets, func(ae *netlink.AttributeEncoder) error {
		for _, fd := range fds {
			ae.Nested(sockItem, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(sockFD, uint32(fd))
				return nil
			})
		}
		return nil
	})
}

// acknowledged asks for an acknowledgement, for commands without an answer. One that
// has an answer must not ask for both: the second would be taken for the answer to the
// next command.
const acknowledged = netlink.Request | netlink.Acknowledge

func (c *Control) execute(command uint8, ae *netlink.AttributeEncoder, flags netlink.HeaderFlags) ([]genetlink.Message, error) {
	data, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	return c.conn.Execute(genetlink.Message{Header: genetlink.Header{Command: command, Version: version}, Data: data},
		c.family.ID, flags)
}

func indexOf(data []byte) (int, bool) {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if ad.Type() == attrIndex {
			return int(ad.Uint32()), true
		}
	}
	return 0, false
}

// Watch tells of links that die.
type Watch struct{ conn *genetlink.Conn }

// WatchLinks begins to watch.
func WatchLinks() (*Watch, error) {
	c, err := Open()
	if err != nil {
		return nil, err
	}
	for _, g := range c.family.Groups {
		if g.Name == group {
			if err := c.conn.JoinGroup(g.ID); err != nil {
				c.Close()
				return nil, fmt.Errorf("netlink group %s: %w", group, err)
			}
			return &Watch{c.conn}, nil
		}
	}
	c.Close()
	return nil, fmt.Errorf("this kernel's nbd has no netlink group %s", group)
}

// Next waits for the next link that dies and returns the index of its device.
func (w *Watch) Next() (int, error) {
	for {
		list, _, err := w.conn.Receive()
		if err != nil {
			return 0, err
		}
		for _, m := range list {
			if index, ok := indexOf(m.Data); ok && m.Header.Command == commandLinkDead {
				return index, nil
			}
		}
	}
}

// Close ends the watch, and a Next that waits.
func (w *Watch) Close() error { return w.conn.Close() }
