package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"blkd/internal/api"
)

// fake is a node that answers as a test says. Methods are named without their
// package, "VolumeService/Promote".
type fake struct {
	address string // HOST:PORT
	socket  string

	mu      sync.Mutex
	answers map[string]func(any) (any, error)
	events  func(*api.EventsRequest, api.ClusterService_EventsServer) error
	fails   error // what every call ends with that has no answer of its own
	calls   []call
}

// call is a request that has arrived.
type call struct {
	method  string
	request any
}

// newFake starts a node; nil credentials are plain text.
func newFake(t *testing.T, creds credentials.TransportCredentials) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "blk") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{answers: map[string]func(any) (any, error){}, socket: filepath.Join(dir, api.SocketName)}
	serve := func(network, address string, creds credentials.TransportCredentials) string {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		options := []grpc.ServerOption{grpc.UnaryInterceptor(f.unary), grpc.StreamInterceptor(f.stream)}
		if creds != nil {
			options = append(options, grpc.Creds(creds))
		}
		s := grpc.NewServer(options...)
		api.RegisterVolumeServiceServer(s, api.UnimplementedVolumeServiceServer{})
		api.RegisterNodeServiceServer(s, api.UnimplementedNodeServiceServer{})
		api.RegisterClusterServiceServer(s, api.UnimplementedClusterServiceServer{})
		go s.Serve(l) //nolint:errcheck // ends with the test
		t.Cleanup(s.Stop)
		return l.Addr().String()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	serve("unix", f.socket, nil)
	f.address = serve("tcp", "127.0.0.1:0", creds)
	return f
}

// answer sets what a method answers.
func (f *fake) answer(method string, message any) {
	f.handle(method, func(any) (any, error) { return message, nil })
}

func (f *fake) handle(method string, h func(any) (any, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[method] = h
}

func (f *fake) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = err
}

// got are the requests that a method has received.
func (f *fake) got(method string) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []any
	for _, c := range f.calls {
		if c.method == method {
			out = append(out, c.request)
		}
	}
	return out
}

func (f *fake) take(fullMethod string, req any) (func(any) (any, error), error) {
	method := strings.TrimPrefix(fullMethod, "/blkd.v1.")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call{method, req})
	h := f.answers[method]
	if h == nil && f.fails != nil {
		return nil, f.fails
	}
	return h, nil
}

func (f *fake) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	h, err := f.take(info.FullMethod, req)
	switch {
	case err != nil:
		return nil, err
	case h != nil:
		return h(req)
	}
	return next(ctx, req)
}

func (f *fake) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if strings.HasSuffix(info.FullMethod, "/Events") && f.events != nil {
		req := new(api.EventsRequest)
		if err := s.RecvMsg(req); err != nil {
			return err
		}
		f.take(info.FullMethod, req) //nolint:errcheck // it is noted
		return f.events(req, &grpc.GenericServerStream[api.EventsRequest, api.Event]{ServerStream: s})
	}
	if _, err := f.take(info.FullMethod, nil); err != nil {
		return err
	}
	return next(srv, s)
}

// on asks the node by its socket.
func (f *fake) on(args ...string) []string { return append([]string{"--socket", f.socket}, args...) }

// noQuorum is how a node says that it has none.
func noQuorum() error {
	return api.Errorf(codes.Unavailable, "n1", "start blkd on n2 or n3", "no quorum: 1 of 3 voters in contact, 2 needed")
}

// asks is the command line of every call that blkctl makes.
var asks = []string{
	"volume list", "volume show v", "volume create v 1GiB", "volume delete v --yes", "volume resize v 1GiB", "volume change v --min-copies 2", "volume recover v --without n1", "volume verify v",
	"promote v", "branch list", "branch compare v@1-n1", "branch drop v@1-n1 --yes", "replica list v", "replica add v", "replica remove v n1", "replica move v n1", "replica invalidate v n1", "replica verify v",
	"node list", "node show n1", "node add n4 --address n4:7400", "node remove n1", "node replace n1", "node drain n1", "node undrain n1", "node fence n1",
	"cluster status", "cluster transfer", "cluster snapshot save FILE", "history v", "events", "status", "why", "primary v", "secondary v", "check", "drill all",
	"attachments", "detach v --holder db1", "role v",
	"service list", "service show v", "service enable v --on n1", "service disable v", "service move v", "service check v --holder x --attachment 1",
}

// TestExitCodesOfAllCommands: whatever a node answers, each command ends with the
// code of the contract, and says what, where, and what next.
func TestExitCodesOfAllCommands(t *testing.T) {
	f := newFake(t, nil)
	file := filepath.Join(t.TempDir(), "snapshot")
	for code, want := range map[codes.Code]Code{
		codes.Unavailable: NoQuorum, codes.FailedPrecondition: Refused, codes.Aborted: Conflict, codes.AlreadyExists: Conflict,
		codes.NotFound: NotFound, codes.InvalidArgument: Usage, codes.DeadlineExceeded: TimedOut, codes.Internal: Failed,
	} {
		f.fail(api.Errorf(code, "n1", "blkctl why v", "this is why"))
		for _, line := range asks {
			args := strings.Fields(strings.ReplaceAll(line, "FILE", file))
			got, out, errs := blkctl(f.on(args...)...)
			if got != want || out != "" {
				t.Errorf("%s, %v: exit code %d, want %d; it printed %q", line, code, got, want, out)
			}
			if want == TimedOut {
				continue // it has its own words
			}
			if errs != "blkctl: this is why (node n1)\n  next: blkctl why v\n" {
				t.Errorf("%s, %v: %q", line, code, errs)
			}
		}
	}
	f.fail(noQuorum())
	if code, _, errs := blkctl(f.on("volume", "create", "v", "1GiB", "-o", "json")...); code != NoQuorum ||
		errs != `{"error":{"code":5,"message":"no quorum: 1 of 3 voters in contact, 2 needed","node":"n1","advice":"start blkd on n2 or n3"}}`+"\n" {
		t.Errorf("as JSON: exit code %d, %s", code, errs)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a snapshot that failed left a file")
	}
}

// TestAsksIsComplete: every command of the tree that talks to a node is in the
// list above, or is tested by itself.
func TestAsksIsComplete(t *testing.T) {
	other := []string{"blkctl wait", "blkctl demo", "blkctl dev", "blkctl version", "blkctl bench", "blkctl attach", "blkctl service run", "blkctl demo", "blkctl dev", "blkctl cluster snapshot restore",
		"blkctl pki init", "blkctl pki issue", "blkctl pki list", "blkctl pki rotate"}
	for _, c := range commands(New(Streams{})) {
		path := c.CommandPath()
		known := c.HasSubCommands()
		for _, o := range other {
			known = known || path == o
		}
		for _, line := range asks {
			known = known || strings.HasPrefix("blkctl "+line+" ", path+" ")
		}
		if !known {
			t.Errorf("%s is tested against no answer", path)
		}
	}
}

// TestStandalone: a node that stands alone does not know the calls of clusters.
func TestStandalone(t *testing.T) {
	f := newFake(t, nil)
	f.fail(status.Error(codes.Unimplemented, "unknown service"))
	for _, line := range []string{"node list", "promote v", "replica add v", "history v"} {
		code, _, errs := blkctl(f.on(strings.Fields(line)...)...)
		if code != Failed || !strings.Contains(errs, "stands alone") {
			t.Errorf("%s: exit code %d, %s", line, code, errs)
		}
	}
	f.answer("VolumeService/Show", healthy)
	if code, _, errs := blkctl(f.on("replica", "list", "demo")...); code != Failed || !strings.Contains(errs, "its volumes have no replicas") {
		t.Errorf("replica list: exit code %d, %s", code, errs)
	}
}
