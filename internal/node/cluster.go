package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"blkd/fencing"
	"blkd/internal/api"
	"blkd/internal/cluster"
	"blkd/internal/env"
	"blkd/internal/pki"
	"blkd/internal/replicas"
	"blkd/internal/socket"
)

// member is a node's part in a cluster: the metadata quorum, and the services
// for other nodes and for operators.
type member struct {
	node    *Node
	cluster *cluster.Cluster
	certs   *pki.Reloader // nil: plain text
	health  *health.Server
	mux     *mux // of the cluster address

	fencer   *fencing.Fencer   // nil: no machine can be switched
	replicas *replicas.Manager // nil: it is a witness
	exports  *exports          // likewise
	peers    peers
	server   *grpc.Server
}

// joinCluster makes the node part of its cluster. It returns before the node has
// found the others; see member.observe.
func (n *Node) joinCluster(w World) error {
	m := &member{node: n, health: health.NewServer()}
	if err := m.loadCertificates(); err != nil {
		return err
	}
	if err := m.loadFencing(w.Clock); err != nil {
		return err
	}
	l, err := m.listen(w.Cluster)
	if err != nil {
		return err
	}
	clock := w.Clock
	if clock == nil {
		clock = env.SystemClock{}
	}
	c, err := m.start(clock)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	m.cluster = c
	if !n.cfg.Cluster.Witness {
		m.startReplicas(clock)
	}
	m.serve(l)
	n.member = m
	if m.fencer != nil {
		n.serving.Go(m.fenceDead)
	}
	return nil
}

// listen opens the cluster address, unless it was passed in.
func (m *member) listen(passed net.Listener) (net.Listener, error) {
	if passed != nil {
		return passed, nil
	}
	list := m.node.cfg.list()
	l, err := listen(m.node.cfg.listenAddress(list))
	if err != nil {
		return nil, fmt.Errorf("cluster address: %w; set --listen where the machine reaches itself under another address than the other nodes do", err)
	}
	if address := m.node.cfg.clusterAddress(list); deaf(address, l.Addr()) {
		m.node.log.Warn("other machines cannot reach this node: the name in its address stands for loopback here",
			"address", address, "listens", l.Addr(), "advice", "set --listen 0.0.0.0:PORT, or correct /etc/hosts")
	}
	return l, nil
}

// deaf tells whether a node listens on loopback only while its address is meant
// for other machines: distributions let a machine's name stand for 127.0.1.1.
func deaf(address string, listens net.Addr) bool {
	host, _, err := net.SplitHostPort(address)
	tcp, ok := listens.(*net.TCPAddr)
	return err == nil && ok && tcp.IP.IsLoopback() && host != "localhost" && net.ParseIP(host) == nil
}

func (m *member) loadCertificates() error {
	files, err := m.node.cfg.Cluster.files()
	if err != nil || files == (pki.Files{}) {
		return err
	}
	m.certs, err = m.node.cfg.trust(files)
	return err
}

// start begins the node's part in the metadata quorum.
func (m *member) start(clock env.Clock) (*cluster.Cluster, error) {
	cfg := &m.node.cfg
	labels, err := cfg.labels()
	if err != nil {
		return nil, settingError("cluster.labels", "%w", err)
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	w := cluster.World{
		FS: m.node.fs, Clock: clock, Log: m.node.log, Rand: rand.Reader, Boot: boot, Dial: dialQuick,
		Credentials: func(string) credentials.TransportCredentials { return pki.PlainClientCredentials() },
		Disk: func() (capacity, free int64) {
			d := m.node.lookAtDisk()
			return d.size, d.free
		},
	}
	if m.certs != nil {
		w.Credentials = m.certs.ClientCredentials
	}
	return cluster.Start(cluster.Config{
		Name: cfg.NodeName, List: cfg.list(), Address: cfg.clusterAddress(cfg.list()),
		Dir:     filepath.Join(cfg.DataDir, api.MetadataDir),
		Backup:  filepath.Join(cfg.DataDir, api.StagedBackup),
		Witness: cfg.Cluster.Witness, Labels: labels, NBD: m.node.nbdAddresses(),
	}, w)
}

// dialQuick connects to another node for gRPC.
func dialQuick(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return socket.Quick(conn), nil
}

// bootID tells one boot of the machine from the next.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id of the kernel: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

// nbdAddresses are where NBD clients connect, for the records of the cluster.
func (n *Node) nbdAddresses() []string {
	var all []string
	for _, l := range n.listeners {
		if l.Addr().Network() == "unix" {
			all = append(all, "unix:"+l.Addr().String())
		} else {
			all = append(all, reachable(l.Addr().String()))
		}
	}
	return all
}

// serve serves the cluster address.
func (m *member) serve(l net.Listener) {
	options := []grpc.ServerOption{grpc.Creds(pki.PlainServerCredentials(m.refused))}
	if m.certs != nil {
		unary, stream := pki.Authorizer(m.may)
		options = []grpc.ServerOption{grpc.Creds(m.certs.ServerCredentials(m.refused)),
			grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream)}
	}
	m.server = grpc.NewServer(append(options, cluster.ServerOptions()...)...)
	m.cluster.Register(m.server)
	m.register(m.server)
	reflection.Register(m.server)
	m.mux = newMux(l, m.acceptData, m.node.log)
	m.node.serve("cluster address", m.mux.run)
	m.node.serve("cluster services", func() error { return m.server.Serve(m.mux) })
}

// refused logs a connection that was turned away.
func (m *member) refused(from net.Addr, err error) {
	m.node.log.Warn("a connection to the cluster address was refused", "from", from, "err", err)
}

// may says who may call what on the cluster address.
func (m *member) may(method string, id pki.Identity) error {
	var err error
	if strings.HasPrefix(method, "/"+api.PeerService_ServiceDesc.ServiceName+"/") {
		err = id.Check(pki.Node, "")
	} else if id.Role != pki.Node {
		err = id.Check(pki.Admin, "")
	}
	var no *pki.Error
	if errors.As(err, &no) {
		return m.node.refuse(codes.PermissionDenied, no.Next, "%s", no.Text)
	}
	return err
}

// register adds the services for operators to a server: that of the control
// socket and that of the cluster address serve the same.
func (m *member) register(s *grpc.Server) {
	api.RegisterVolumeServiceServer(s, &clusterVolumes{member: m})
	api.RegisterClusterServiceServer(s, &clusterService{member: m})
	api.RegisterNodeServiceServer(s, &clusterNode{member: m})
	grpc_health_v1.RegisterHealthServer(s, m.health)
}

// stop ends the node's part. The other nodes are served until the leadership,
// if this node has it, is handed over.
func (m *member) stop(ctx context.Context) error {
	var err error
	if m.replicas != nil {
		m.exports.stop()
		err = m.replicas.Stop()
	}
	m.peers.close()
	err = errors.Join(err, m.cluster.Stop(ctx))
	stopGracefully(ctx, m.server)
	return errors.Join(err, m.mux.Close())
}

// refuseMember keeps the replicas of a cluster from being served without asking
// the quorum.
func (n *Node) refuseMember() error {
	names, err := n.fs.ReadDir(n.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, name := range names {
		if name == api.MetadataDir {
			return settingError("standalone", "the data directory %s belongs to a node of a cluster, whose volumes must not be served alone; start it with --cluster, or choose another directory with --data-dir", n.cfg.DataDir)
		}
	}
	return nil
}
