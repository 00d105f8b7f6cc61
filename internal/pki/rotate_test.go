package pki

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// copied is a holder whose files are a copy, as on its own machine: it reads new
// ones only when they are brought there.
type copied struct {
	*Reloader
	source, own string
}

func copyOf(t *testing.T, a *Authority, role Role, name string) *copied {
	t.Helper()
	issue(t, a, role, name)
	c := &copied{source: a.path(name), own: t.TempDir()}
	c.bring(t)
	files, err := FilesIn(c.own)
	must(t, err)
	c.Reloader = load(t, files)
	return c
}

// bring copies all files; update has them read too.
func (c *copied) bring(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(c.source)
	must(t, err)
	for _, e := range entries {
		text, err := os.ReadFile(c.source + "/" + e.Name())
		must(t, err)
		must(t, os.WriteFile(c.own+"/"+e.Name(), text, 0o600))
	}
}

func (c *copied) update(t *testing.T) {
	t.Helper()
	c.bring(t)
	must(t, c.Reload())
}

// crossover is a cluster of which the CA is changed.
type crossover struct {
	a       *Authority
	nodes   []*copied
	clients []*copied
}

func newCrossover(t *testing.T) *crossover {
	a := cluster(t, "prod")
	return &crossover{a,
		[]*copied{copyOf(t, a, Node, "n1"), copyOf(t, a, Node, "n2"), copyOf(t, a, Node, "n3")},
		[]*copied{copyOf(t, a, Admin, "alice"), copyOf(t, a, Client, "db1")}}
}

func (x *crossover) all() []*copied { return append(append([]*copied{}, x.nodes...), x.clients...) }

// everyoneMeets connects every node and client with every node, in live TLS.
func (x *crossover) everyoneMeets(t *testing.T, when string) {
	t.Helper()
	for _, client := range x.all() {
		for _, server := range x.nodes {
			if client == server {
				continue
			}
			atServer, atClient := meet(t, server.Reloader, client.Reloader, server.Self().Name)
			if atServer != nil || atClient != nil {
				t.Fatalf("%s: %v at %v:\n  server: %v\n  client: %v", when, client.Self(), server.Self(), atServer, atClient)
			}
		}
	}
}

// bringAll updates the holders one after the other, in any order, and everyone
// meets in between.
func (x *crossover) bringAll(t *testing.T, random *rand.Rand, step string) {
	t.Helper()
	all := x.all()
	for _, i := range random.Perm(len(all)) {
		all[i].update(t)
		x.everyoneMeets(t, step+", when "+all[i].Self().Name+" has it")
	}
}

func TestCAChangeWithoutAGap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	x := newCrossover(t)
	old := x.a.cas.name()
	x.everyoneMeets(t, "before")

	must(t, x.a.AddCA(CALifetime))
	must(t, x.a.AddCA(CALifetime)) // by mistake, or after a crash
	if len(x.a.cas.certs) != 2 || x.a.cas.name() == old || !x.a.cas.has(old) {
		t.Fatalf("the CAs are now %v", x.a.CAs())
	}
	x.bringAll(t, random, "step 1, both CAs")
	refusal(t, "dropping early", x.a.DropCA(), ErrInUse, "alice, db1, n1, n2, n3", "blkctl pki rotate --all")

	// A node that joins now is trusted by all, whether they have reached step 2 or not.
	x.nodes = append(x.nodes, copyOf(t, x.a, Node, "n4"))
	x.everyoneMeets(t, "a node joins")
	for _, h := range x.all() {
		_, err := x.a.Rotate(h.Self().Name, nil, CertificateLifetime)
		must(t, err)
	}
	x.bringAll(t, random, "step 2, new certificates")

	must(t, x.a.DropCA())
	must(t, x.a.DropCA())
	x.bringAll(t, random, "step 3, one CA")
	if len(x.a.cas.certs) != 1 || x.a.cas.has(old) {
		t.Errorf("the old CA is still there: %v", x.a.CAs())
	}
	for _, h := range x.all() {
		if h.Self().CA != x.a.cas.name().id || len(h.Expiries()) != 2 {
			t.Errorf("%v has CA %s, and expiries %v", h.Self(), h.Self().CA, h.Expiries())
		}
	}
	keys, err := readKeys(x.a.path(caKey))
	must(t, err)
	if len(keys) != 1 || !belongTo(x.a.cas.certs[0], keys[0]) {
		t.Errorf("%d keys are left", len(keys))
	}
}

// TestOldCertificateAfterTheChange is the point of it all: what the old CA signed
// is worth nothing any more.
func TestOldCertificateAfterTheChange(t *testing.T) {
	a := cluster(t, "prod")
	n1, stolen := copyOf(t, a, Node, "n1"), copyOf(t, a, Admin, "alice")
	must(t, a.AddCA(CALifetime))
	for _, name := range []string{"n1", "alice"} {
		_, err := a.Rotate(name, nil, CertificateLifetime)
		must(t, err)
	}
	must(t, a.DropCA())
	n1.update(t)
	stolen.cas(t, a)
	atServer, _ := meet(t, n1.Reloader, stolen.Reloader, "n1")
	refusal(t, "server", atServer, ErrOtherCluster, "admin alice is signed by CA prod/")
}

// cas makes the holder trust what the authority has now, with its old pair.
func (c *copied) cas(t *testing.T, a *Authority) {
	t.Helper()
	m := *c.current.Load()
	m.cas = a.cas
	c.current.Store(&m)
}

// TestRotateUnderTraffic rotates while calls are made on one connection that
// stays, and on new ones all the time: not one may fail.
func TestRotateUnderTraffic(t *testing.T) {
	a := cluster(t, "prod")
	n1, n2 := copyOf(t, a, Node, "n1"), copyOf(t, a, Node, "n2")
	s := serve(t, func(f Refused) credentials.TransportCredentials { return n1.ServerCredentials(f) }, everyone)
	stay, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(n2.ClientCredentials("n1")))
	must(t, err)
	defer stay.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	calls := make(chan int, 2)
	traffic := func(call func() error) {
		n := 0
		for ctx.Err() == nil {
			if err := call(); err != nil {
				t.Errorf("call %d: %v", n, err)
				break
			}
			n++
		}
		calls <- n
	}
	wg.Go(func() {
		traffic(func() error {
			_, err := healthpb.NewHealthClient(stay).Check(context.Background(), &healthpb.HealthCheckRequest{})
			return err
		})
	})
	wg.Go(func() { traffic(func() error { return s.call(t, n2.ClientCredentials("n1")) }) })
	for i := range 20 {
		for _, n := range []*copied{n1, n2} {
			before := n.current.Load().pair.Leaf.SerialNumber
			_, err := a.Rotate(n.Self().Name, nil, CertificateLifetime)
			must(t, err)
			n.update(t)
			if before.Cmp(n.current.Load().pair.Leaf.SerialNumber) == 0 {
				t.Errorf("round %d: the certificate is the old one", i)
			}
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d calls on new connections or one that stayed, %d on the other", <-calls, <-calls)
}

func TestReloadKeepsWhatWorks(t *testing.T) {
	a := cluster(t, "prod")
	n1, n2 := copyOf(t, a, Node, "n1"), copyOf(t, a, Node, "n2")
	other := copyOf(t, cluster(t, "prod2"), Node, "n1")
	from(a, -CertificateLifetime-day)
	ended := copyOfEnded(t, a, "n9")
	good, err := os.ReadFile(n1.files.Cert)
	must(t, err)
	for name, tc := range map[string]struct {
		spoil  func()
		reason error
		want   string
	}{
		"half copied":    {func() { overwrite(t, n1.files.Key, n2.files.Key) }, ErrBadFile, "private key does not match"},
		"no certificate": {func() { must(t, os.Remove(n1.files.Cert)) }, ErrBadFile, "no such file"},
		"no CA":          {func() { must(t, os.Remove(n1.files.CA)) }, ErrBadFile, "reading the CA"},
		"garbage CA":     {func() { must(t, os.WriteFile(n1.files.CA, []byte("hello"), 0o600)) }, ErrBadFile, "no PEM certificate"},
		"leaf as CA":     {func() { overwrite(t, n1.files.CA, n2.files.Cert) }, ErrBadFile, "not the CA of a blkd cluster"},
		"other CA":       {func() { overwrite(t, n1.files.CA, other.files.CA) }, ErrOtherCluster, "is signed by CA prod/"},
		"somebody else": {func() { overwrite(t, n1.files.Cert, n2.files.Cert); overwrite(t, n1.files.Key, n2.files.Key) }, ErrOtherName,
			"the certificate is of node n2, not of node n1"},
		"ended":        {func() { overwrite(t, n1.files.Cert, ended.Cert); overwrite(t, n1.files.Key, ended.Key) }, ErrExpired, "ended on"},
		"two clusters": {func() { appendTo(t, n1.files.CA, other.files.CA) }, ErrBadFile, "two clusters"},
	} {
		tc.spoil()
		refusal(t, name, n1.Reload(), tc.reason, tc.want, n1.own)
		if atServer, atClient := meet(t, n1.Reloader, n2.Reloader, "n1"); atServer != nil || atClient != nil {
			t.Errorf("%s: %v, %v", name, atServer, atClient)
		}
		n1.update(t)
	}
	now, err := os.ReadFile(n1.files.Cert)
	must(t, err)
	if string(now) != string(good) {
		t.Error("the test has lost the certificate")
	}
}

func copyOfEnded(t *testing.T, a *Authority, name string) Files {
	t.Helper()
	files := issue(t, a, Node, name)
	now := a.now
	a.now = time.Now
	t.Cleanup(func() { a.now = now })
	return files
}

func overwrite(t *testing.T, to, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, text, 0o600))
}

func appendTo(t *testing.T, to, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	f, err := os.OpenFile(to, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write(text)
	must(t, errors.Join(err, f.Close()))
}

// TestDataConnection sends more than a record through Accept and Connect, as the
// data path does.
func TestDataConnection(t *testing.T) {
	a := cluster(t, "prod")
	n1, n2 := holder(t, a, Node, "n1"), holder(t, a, Node, "n2")
	s, c := pair(t)
	const size = 1 << 20
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := n1.Accept(context.Background(), s, Node)
		if err == nil {
			_, err = conn.Write(make([]byte, size))
			err = errors.Join(err, conn.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}()
	conn, err := n2.Connect(context.Background(), c, "n1")
	must(t, err)
	n, err := io.Copy(io.Discard, conn)
	<-done
	if n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if fmt.Sprint(conn.Peer()) != "node n1" {
		t.Errorf("the peer is %v", conn.Peer())
	}
}
