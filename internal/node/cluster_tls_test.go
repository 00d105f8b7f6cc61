package node

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/internal/cluster"
	"blkd/internal/env"
	"blkd/internal/pki"
)

// newPKI is a CA with certificates for nodes, by name, and for an operator and a
// client besides.
func newPKI(t *testing.T, name string, nodes ...string) *pki.Authority {
	t.Helper()
	a, err := pki.Init(filepath.Join(t.TempDir(), name), name, pki.CALifetime)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	issue := func(role pki.Role, name string) {
		if _, err := a.Issue(pki.Request{Role: role, Name: name, Lifetime: pki.CertificateLifetime}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		issue(pki.Node, n)
	}
	issue(pki.Admin, "alice")
	issue(pki.Client, "db1")
	return a
}

// as are the services of a node for the holder of a certificate.
func (c *trio) as(a *pki.Authority, holder, node string) (services, api.PeerServiceClient) {
	c.t.Helper()
	files, err := pki.FilesIn(filepath.Join(a.Dir(), holder))
	if err != nil {
		c.t.Fatal(err)
	}
	certs, err := pki.NewReloader(files)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := c.cfgs[node]
	conn, err := api.DialNode(cfg.clusterAddress(cfg.list()), certs.ClientCredentials(node))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return newServices(conn), api.NewPeerServiceClient(conn)
}

func TestClusterTLS(t *testing.T) {
	a := newPKI(t, "prod", three...)
	c := newTrio(t, three, func(cfg *Config) { cfg.Cluster.TLSDir = filepath.Join(a.Dir(), cfg.NodeName) })
	c.startAll()

	alice, peer := c.as(a, "alice", "n2")
	_, err := alice.volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30, Request: &api.RequestInfo{By: "root@db1"}})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := alice.History(brief(t), &api.HistoryRequest{Volume: "demo"}); err != nil || h.Entries[0].By != "admin alice (root@db1)" {
		t.Errorf("%v, %v", h, err)
	}
	n1, _ := c.as(a, "n1", "n2")
	if _, err := n1.ListNodes(brief(t), &api.ListNodesRequest{}); err != nil {
		t.Error("a node may ask what operators may:", err)
	}
	_, err = peer.Hello(brief(t), &api.HelloRequest{})
	wantError(t, err, codes.PermissionDenied, "the certificate is of admin alice, and only a node may do this")
	db1, _ := c.as(a, "db1", "n2")
	_, err = db1.Status(brief(t), &api.ClusterStatusRequest{})
	wantError(t, err, codes.PermissionDenied, "the certificate is of client db1")

	// Without TLS nothing is to be had, and both sides are told.
	_, err = c.address("n2").Status(brief(t), &api.ClusterStatusRequest{})
	if api.Explain(err).Code != codes.Unavailable {
		t.Error(err)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(c.logs["n2"].String(), "the peer speaks plain text") })

	// A node that says it is another one is refused, and named.
	_, asN3 := c.as(a, "n3", "n2")
	hello, err := asN3.Hello(brief(t), &api.HelloRequest{Greeting: &api.Greeting{Name: "n1", Disk: 1, Incarnation: 1}})
	if err != nil || hello.Refusal.GetCode() != api.RefusalCode_REFUSAL_CODE_NAME || !strings.Contains(hello.Refusal.Text, "calls itself node n1, but its certificate is of n3") {
		t.Errorf("%v, %v", hello, err)
	}
	if log := c.logs["n2"].String(); !strings.Contains(log, "a node is refused") {
		t.Error(log)
	}
}

// TestForeignNode: a node with a certificate of another cluster gets nowhere, and
// each side says why.
func TestForeignNode(t *testing.T) {
	here, elsewhere := newPKI(t, "prod", "n1", "n2"), newPKI(t, "other", "n3")
	c := newTrio(t, three, func(cfg *Config) {
		a := here
		if cfg.NodeName == "n3" {
			a = elsewhere
		}
		cfg.Cluster.TLSDir = filepath.Join(a.Dir(), cfg.NodeName)
	})
	c.start(three...)
	for _, name := range three {
		said := func(is string) bool {
			return strings.Contains(is, "n3 is signed by CA other/") || strings.Contains(is, "is signed by CA prod/") || strings.Contains(is, "refuses the certificate of node")
		}
		eventually(t, name+" says why", func() bool {
			st, err := c.socket(name).Status(brief(t), &api.ClusterStatusRequest{})
			return err == nil && hasProblem(st.Problems, notAMember) && said(st.Problems[0].Text)
		})
	}
	eventually(t, "the log of n1 names the other cluster", func() bool {
		log := c.logs["n1"].String()
		return strings.Contains(log, "a connection to the cluster address was refused") && strings.Contains(log, "CA other/")
	})
	if st := c.nodes["n1"].member.cluster.Status(); st.Phase != cluster.Founding {
		t.Errorf("%+v", st)
	}
}

// TestReloadCertificates: a new certificate is used from the next connection on,
// and one of somebody else is not.
func TestReloadCertificates(t *testing.T) {
	a := newPKI(t, "prod", "n1", "n2")
	c := newTrio(t, []string{"n1"}, func(cfg *Config) { cfg.Cluster.TLSDir = filepath.Join(a.Dir(), cfg.NodeName) })
	c.startAll()
	n, cfg := c.nodes["n1"], c.cfgs["n1"]
	serial := func() string {
		conn, err := tls.Dial("tcp", cfg.clusterAddress(cfg.list()), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	if _, err := a.Rotate("n1", nil, pki.CertificateLifetime); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != before {
		t.Error("used before the reload")
	}
	if err := n.Reload(); err != nil {
		t.Fatal(err)
	}
	after := serial()
	if after == before {
		t.Error("not used after the reload")
	}
	for _, end := range []string{".crt", ".key"} {
		other, err := os.ReadFile(filepath.Join(a.Dir(), "n2", "n2"+end))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(a.Dir(), "n1", "n1"+end), other, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Reload(); err == nil || !strings.Contains(err.Error(), "the certificate is of node n2, not of node n1") {
		t.Errorf("%v", err)
	}
	if got := serial(); got != after {
		t.Error("a certificate of another node is used")
	}
}

// TestClusterSettings: what does not go together is refused with what to do.
func TestClusterSettings(t *testing.T) {
	a := newPKI(t, "prod", "n1", "n2")
	dir := func(name string) string { return filepath.Join(a.Dir(), name) }
	const list = "n1=127.0.0.1:7401,n2=127.0.0.1:7402,n3=127.0.0.1:7403"
	const far = "n1=10.0.0.1:7400,n2=10.0.0.2:7400,n3=10.0.0.3:7400"
	for name, tc := range map[string]struct {
		args string
		say  []string // none: accepted
	}{
		"loopback":         {"--cluster " + list + " --node-name n1", nil},
		"one by one":       {"--cluster n1=127.0.0.1:7401 --cluster n2=127.0.0.1:7402 --cluster n3=127.0.0.1:7403 --node-name n1", nil},
		"insecure":         {"--cluster " + far + " --node-name n1 --insecure", nil},
		"TLS":              {"--cluster " + far + " --node-name n1 --tls-dir " + dir("n1"), nil},
		"TLS, single":      {"--cluster " + far + " --node-name n1 --tls-cert " + dir("n1/n1.crt") + " --tls-key " + dir("n1/n1.key") + " --tls-ca " + dir("n1/ca.crt"), nil},
		"added later":      {"--cluster " + list + " --node-name n4 --address 127.0.0.1:7404 --listen 127.0.0.1:7504", nil},
		"labels":           {"--cluster " + list + " --node-name n1 --label zone=a,rack=r1 --witness", nil},
		"both":             {"--standalone --cluster " + list, []string{"stands alone or belongs to a cluster"}},
		"two nodes":        {"--cluster n1=127.0.0.1:1,n2=127.0.0.1:2 --node-name n1", []string{"cluster.nodes (--cluster, BLKD_CLUSTER)", "blkd --witness"}},
		"no address":       {"--cluster n1 --node-name n1", []string{"--cluster", "NAME=HOST:PORT"}},
		"no port":          {"--cluster n1=10.0.0.1 --node-name n1", []string{"--cluster", "write HOST:PORT"}},
		"wrong name":       {"--cluster " + list + " --node-name n4", []string{"node_name (--node-name", "n4 is not in --cluster", "did you mean n1?", "--address"}},
		"far name":         {"--cluster " + list + " --node-name storage-27", []string{"(n1, n2, n3)"}},
		"bad name":         {"--cluster " + list + " --node-name N1", []string{`node name "N1"`}},
		"volume":           {"--cluster " + list + " --node-name n1 --volume a=1GiB", []string{"--volume", "blkctl volume create"}},
		"alone and label":  {"--standalone --label zone=a", []string{"cluster.labels (--label, BLKD_LABEL)", "no use for it"}},
		"alone, a witness": {"--standalone --witness", []string{"--witness", "no use for it"}},
		"bad label":        {"--cluster " + list + " --node-name n1 --label zone", []string{"--label", "zone=a"}},
		"label twice":      {"--cluster " + list + " --node-name n1 --label zone=a,zone=b", []string{"zone is given twice"}},
		"bad address":      {"--cluster " + list + " --node-name n1 --address n1", []string{"--address", "HOST:PORT"}},
		"unix":             {"--cluster " + list + " --node-name n1 --listen unix:/run/x", []string{"--listen", "nodes speak TCP"}},
		"plain text":       {"--cluster " + far + " --node-name n1", []string{"--tls-dir", "10.0.0.1:7400", "no certificates", "blkctl pki init", "--insecure"}},
		"plain listener":   {"--cluster " + list + " --node-name n1 --listen 0.0.0.0:7401", []string{"0.0.0.0:7401", "no certificates"}},
		"no directory":     {"--cluster " + far + " --node-name n1 --tls-dir /nowhere", []string{"--tls-dir", "/nowhere holds 0 certificates"}},
		"wrong holder":     {"--cluster " + far + " --node-name n1 --tls-dir " + dir("n2"), []string{"--tls-dir", "the certificate is of node n2, not of node n1"}},
		"operator":         {"--cluster " + far + " --node-name n1 --tls-dir " + dir("alice"), []string{"the certificate is of admin alice"}},
		"two of three":     {"--cluster " + far + " --node-name n1 --tls-cert " + dir("n1/n1.crt") + " --tls-key " + dir("n1/n1.key"), []string{"go together", "blkctl pki issue node"}},
		"twice":            {"--cluster " + far + " --node-name n1 --tls-dir " + dir("n1") + " --tls-ca " + dir("n1/ca.crt"), []string{"--tls-dir", "names all three"}},
		"TLS and insecure": {"--cluster " + far + " --node-name n1 --insecure --tls-dir " + dir("n1"), []string{"--insecure", "there are certificates"}},
		"misspelt":         {"--clusters " + list, []string{"did you mean --cluster?"}},
	} {
		_, err := Load(append(strings.Fields(tc.args), "--check-config"), nil)
		if (err == nil) != (tc.say == nil) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, say := range tc.say {
			if !strings.Contains(err.Error(), say) {
				t.Errorf("%s: error does not say %q:\n%v", name, say, err)
			}
		}
	}
}

// TestClusterAddressTaken: the error says what to do.
func TestClusterAddressTaken(t *testing.T) {
	c := newTrio(t, []string{"n1"}, nil)
	l := c.listeners["n1"] // another server, as it were
	delete(c.listeners, "n1")
	defer l.Close()
	w := World{FS: env.OS{}, Log: slog.New(slog.NewTextHandler(c.logs["n1"], nil))}
	if _, err := Start(c.cfgs["n1"], w); err == nil || !strings.Contains(err.Error(), "cluster address: ") || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("%v", err)
	}
	cfg := c.cfgs["n1"]
	if _, err := net.Dial("unix", cfg.socketPath()); err == nil {
		t.Error("the control socket is served")
	}
}

func TestDeaf(t *testing.T) {
	for _, tc := range []struct {
		address, listens string
		want             bool
	}{
		{"storage1:7400", "127.0.1.1:7400", true}, {"storage1.example:7400", "[::1]:7400", true},
		{"storage1:7400", "10.0.0.1:7400", false}, {"storage1:7400", "0.0.0.0:7400", false},
		{"localhost:7400", "127.0.0.1:7400", false}, {"127.0.0.1:7400", "127.0.0.1:7400", false},
	} {
		l, err := net.ResolveTCPAddr("tcp", tc.listens)
		if err != nil {
			t.Fatal(err)
		}
		if got := deaf(tc.address, l); got != tc.want {
			t.Errorf("%s on %s: %v", tc.address, tc.listens, got)
		}
	}
}
