package node

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"blkd/blockdev"
	"blkd/internal/env"
	"blkd/internal/pki"
	"blkd/internal/replicas"
	"blkd/internal/socket"
	"blkd/nbd"
)

const (
	// dataSilence is how long data may stay unacknowledged by another node's
	// kernel before the connection is given up: it may be that of a machine
	// that is gone.
	dataSilence = 5 * time.Second
	dataTime    = 3 * time.Second // for the handshake of a data connection
)

// startReplicas begins to keep the replicas that the quorum records on this node.
func (m *member) startReplicas(clock env.Clock) {
	n := m.node
	m.replicas = replicas.Start(replicas.Config{
		Node: n.cfg.NodeName, Dir: filepath.Join(n.cfg.DataDir, volumesDir), Cluster: m.cluster,
		FS: n.fs, Clock: clock, Log: n.log,
		Store: n.replicaStore, Dial: m.dialData, Serve: n.serveReplica, Withdraw: func(volume string) { n.nbd.RemoveExport(volume) },
	})
}

// replicaStore is how the store of a replica behaves.
func (n *Node) replicaStore(string) blockdev.StoreOptions {
	o := n.storeOptions(&volume{})
	return blockdev.StoreOptions{LogBytes: o.LogBytes, CacheBytes: o.CacheBytes, FailOnFull: o.FailOnFull, NoChecksums: o.NoChecksums}
}

// serveReplica offers a volume that this node is the primary of.
func (n *Node) serveReplica(volume string, dev blockdev.Device) {
	if err := n.nbd.SetExport(nbd.Export{Name: volume, Device: dev, HangUp: true}); err != nil {
		n.log.Error("volume is not served", "volume", volume, "err", err)
	}
}

// dialData opens a data connection to another node.
func (m *member) dialData(ctx context.Context, node, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return giveUpSilence(c) }}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte(dataPreamble)); err != nil {
		conn.Close()
		return nil, err
	}
	if m.certs == nil {
		return conn, nil
	}
	return m.certs.Connect(ctx, socket.NewRecords(conn), node)
}

// acceptData takes over a data connection of another node, behind the preamble.
func (m *member) acceptData(conn net.Conn) {
	if m.replicas == nil {
		m.node.log.Warn("a data connection was closed: this node is a witness and has no volumes", "from", conn.RemoteAddr())
		conn.Close()
		return
	}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			err = giveUpSilence(raw)
			if err != nil {
				m.node.log.Debug("data connection", "from", conn.RemoteAddr(), "err", err)
			}
		}
	}
	if m.certs == nil {
		m.replicas.Accept(conn, "")
		return
	}
	ctx, cancel := context.WithTimeout(m.node.stopping, dataTime)
	defer cancel()
	proven, err := m.certs.Accept(ctx, socket.NewRecords(conn), pki.Node)
	if err != nil {
		m.refused(conn.RemoteAddr(), err)
		return
	}
	m.replicas.Accept(proven, proven.Peer().Name)
}

// giveUpSilence makes the kernel break a connection whose other end does not
// acknowledge.
func giveUpSilence(c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(dataSilence.Milliseconds()))
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}
