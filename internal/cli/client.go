package cli

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"blkd/internal/api"
)

// node is a connection to a running blkd.
type node struct {
	conn    *grpc.ClientConn
	volumes api.VolumeServiceClient
	node    api.NodeServiceClient
	cluster api.ClusterServiceClient
}

func newClient(conn *grpc.ClientConn) *node {
	return &node{conn: conn, volumes: api.NewVolumeServiceClient(conn), node: api.NewNodeServiceClient(conn),
		cluster: api.NewClusterServiceClient(conn)}
}

// socketPath is where blkd is looked for.
func (a *app) socketPath() string {
	if a.socket != "" {
		return a.socket
	}
	return filepath.Join(a.dataDirectory(), api.SocketName)
}

func (a *app) dataDirectory() string {
	if a.dataDir != "" {
		return a.dataDir
	}
	return api.DefaultDataDir()
}

// connectTimeout is how long a node may take to accept a connection.
const connectTimeout = time.Second

// enough is how long blkctl goes on to ask other nodes after one has said that
// it has no quorum.
const enough = 2500 * time.Millisecond

// connectSocket reaches the blkd of this machine, or says why that does not work.
func (a *app) connectSocket() (*node, error) {
	path := a.socketPath()
	probe, err := net.DialTimeout("unix", path, connectTimeout)
	if err != nil {
		return nil, unreachable(path, err)
	}
	probe.Close()
	conn, err := api.Dial(path)
	if err != nil {
		return nil, &Error{Code: Failed, Text: err.Error()}
	}
	return newClient(conn), nil
}

func unreachable(path string, err error) *Error {
	e := &Error{Code: Failed, Text: "no blkd answers at " + path + ": " + err.Error(), unreached: true}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Text = "no blkd runs here: there is no socket " + path
		e.Advice = "start one (blkd --standalone --volume demo=1GiB), name its socket with --socket or its data directory with --data-dir, or a node with --node HOST:PORT"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Text = "no blkd runs here: nobody listens on " + path
		e.Advice = "start blkd; look at its log if it has just ended"
	case errors.Is(err, fs.ErrPermission):
		e.Text = "you may not use " + path
		e.Advice = "run blkctl as the user that runs blkd, or as root"
	}
	return e
}

// call connects and runs do, within --timeout. With --node, do is run again with
// the next node when one does not answer or has no quorum; so it must carry the
// same request id each time, and show nothing before it has succeeded.
func (a *app) call(ctx context.Context, do func(context.Context, *node) error) error {
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	if len(a.nodes) > 0 {
		return a.callAny(ctx, do)
	}
	n, err := a.connectSocket()
	if err != nil {
		return err
	}
	defer n.conn.Close()
	return onlyInCluster(do(ctx, n))
}

// callAny runs do with one node after the other, in the order in which they
// accept a connection, until one can answer.
func (a *app) callAny(ctx context.Context, do func(context.Context, *node) error) error {
	creds, err := a.credentials()
	if err != nil {
		return err
	}
	start := time.Now()
	var last error
	var dead []string
	outcomes := a.probe(ctx)
	for range a.nodes {
		reached := <-outcomes
		if reached.err != nil {
			dead = append(dead, reached.address+": "+reached.err.Error())
			continue
		}
		conn, err := api.DialNode(reached.address, creds)
		if err != nil {
			return &Error{Code: Usage, Text: err.Error()}
		}
		err = do(ctx, newClient(conn))
		conn.Close()
		if !another(err) || ctx.Err() != nil {
			return onlyInCluster(err)
		}
		last = a.reachError(reached.address, err)
		if time.Since(start) > enough {
			break
		}
	}
	if last != nil {
		return last
	}
	return &Error{Code: Failed, Text: "no node answers: " + strings.Join(dead, "; "),
		Advice: "check that blkd runs there and that --node names its cluster address", unreached: true}
}

// another tells whether a different node may have a better answer.
func another(err error) bool {
	var call *callError
	return errors.As(err, &call) && api.Explain(call.err).Code == codes.Unavailable
}

// reachError names the address that a connection failed with; a node that did
// answer has named itself.
func (a *app) reachError(address string, err error) error {
	var call *callError
	if errors.As(err, &call) {
		if x := api.Explain(call.err); x.Node == "" {
			cause, advice := connectionCause(address, x.Text)
			if advice == "" {
				advice = "check the certificates (--tls-dir) and that --node names its cluster address"
			}
			return &Error{Code: Failed, Text: address + " does not answer as a node of a cluster: " + cause, Advice: advice, unreached: true}
		}
	}
	return err
}

// grpcWords are what gRPC puts before the cause of a failed connection.
var grpcWords = []string{"transport: ", "authentication handshake failed: ", "error reading server preface: ", "Error while dialing: "}

// connectionCause takes the cause of a failed connection out of what gRPC says, and
// the next step out of the cause, where package pki has put one.
func connectionCause(address, text string) (cause, advice string) {
	cause = text
	if quoted, ok := strings.CutPrefix(text, "connection error: desc = "); ok {
		if inner, err := strconv.Unquote(quoted); err == nil {
			cause = inner
		}
	}
	for _, word := range append(grpcWords, address+": ") {
		cause = strings.TrimPrefix(cause, word)
	}
	if before, after, ok := strings.Cut(cause, " (next: "); ok && strings.HasSuffix(after, ")") {
		return before, strings.TrimSuffix(after, ")")
	}
	return cause, ""
}

type probed struct {
	address string
	err     error
}

// probe tries to connect to all nodes at once and tells the outcomes as they
// come, so that a dead machine costs no time while another one lives.
func (a *app) probe(ctx context.Context) <-chan probed {
	outcomes := make(chan probed, len(a.nodes))
	for _, address := range a.nodes {
		go func() {
			d := net.Dialer{Timeout: connectTimeout}
			c, err := d.DialContext(ctx, "tcp", address)
			if err == nil {
				c.Close()
			}
			outcomes <- probed{address, err}
		}()
	}
	return outcomes
}

// onlyInCluster explains the refusal of a node that does not know a call.
func onlyInCluster(err error) error {
	var call *callError
	if errors.As(err, &call) && api.Explain(call.err).Code == codes.Unimplemented {
		return &Error{Code: Failed, Text: "this blkd does not know the command: it stands alone and the command is for clusters, or it is older than blkctl",
			Advice: "blkctl version"}
	}
	return err
}
