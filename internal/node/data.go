package node

import (
	"context"
	"fmt"
	"io"
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
)

const (
	// dataSilence is how long data may stay unacknowledged by another node's
	// kernel before the connection is given up: it may be that of a machine
	// that is gone.
	dataSilence = 5 * time.Second
	dataTime    = 3 * time.Second // for the handshake of a data connection
)

// What a data connection is for: its first byte, behind preamble and TLS.
const (
	forReplicas byte = 'R' // the protocol between members
	forClients  byte = 'C' // NBD, of clients of another node
)

// startReplicas begins to keep the replicas that the quorum records on this node,
// and to export its volumes.
func (m *member) startReplicas(clock env.Clock) {
	n := m.node
	m.exports = newExports(m)
	n.clustered.Store(m.exports)
	n.serving.Go(m.exports.run)
	m.replicas = replicas.Start(replicas.Config{
		Node: n.cfg.NodeName, Dir: filepath.Join(n.cfg.DataDir, volumesDir), Cluster: m.cluster,
		Branches: filepath.Join(n.cfg.DataDir, branchesDir),
		FS:       n.fs, Clock: clock, Log: n.log,
		Store: n.replicaStore, Serve: m.exports.serve, Withdraw: m.exports.withdraw, Keep: m.exports.keep,
		Dial: func(ctx context.Context, node, address string) (net.Conn, error) {
			return m.dialData(ctx, node, address, forReplicas)
		},
	})
}

// stopHandover bounds what a node that stops waits for others to take over.
const stopHandover = 3 * time.Second

// handOver lets other nodes take over the volumes that this one is primary of, so
// that clients do not have to wait until they notice that it has stopped.
func (m *member) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopHandover)
	defer cancel()
	m.replicas.HandoverAll(ctx)
}

// replicaStore is how the store of a replica behaves.
func (n *Node) replicaStore(string) blockdev.StoreOptions {
	o := n.storeOptions(&volume{})
	return blockdev.StoreOptions{LogBytes: o.LogBytes, CacheBytes: o.CacheBytes, FailOnFull: o.FailOnFull, NoChecksums: o.NoChecksums}
}

// dialData opens a data connection to another node.
func (m *member) dialData(ctx context.Context, node, address string, purpose byte) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return giveUpSilence(c) }}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	begin := []byte(dataPreamble)
	if m.certs == nil {
		begin = append(begin, purpose)
	}
	if _, err := conn.Write(begin); err != nil {
		conn.Close()
		return nil, err
	}
	if m.certs == nil {
		return conn, nil
	}
	proven, err := m.certs.Connect(ctx, socket.NewRecords(conn), node)
	if err != nil {
		return nil, err
	}
	if _, err := proven.Write([]byte{purpose}); err != nil {
		proven.Close()
		return nil, err
	}
	return proven, nil
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
		m.sortData(conn, "")
		return
	}
	ctx, cancel := context.WithTimeout(m.node.stopping, dataTime)
	defer cancel()
	proven, err := m.certs.Accept(ctx, socket.NewRecords(conn), pki.Node)
	if err != nil {
		m.refused(conn.RemoteAddr(), err)
		return
	}
	m.sortData(proven, proven.Peer().Name)
}

// sortData hands a data connection on to what it is for.
func (m *member) sortData(conn net.Conn, peer string) {
	var purpose [1]byte
	err := conn.SetReadDeadline(time.Now().Add(dataTime))
	if err == nil {
		_, err = io.ReadFull(conn, purpose[:])
	}
	switch {
	case err != nil:
		m.node.log.Debug("a data connection ended before it said what for", "from", conn.RemoteAddr(), "err", err)
		conn.Close()
	case purpose[0] == forReplicas:
		m.replicas.Accept(conn, peer)
	case purpose[0] == forClients:
		m.exports.accept(conn)
	default:
		m.node.log.Warn("a data connection was closed: it is for something that this build does not know", "from", conn.RemoteAddr(), "purpose", purpose[0])
		conn.Close()
	}
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
