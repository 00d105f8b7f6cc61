package cli

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"blkd/internal/api"
)

// node is a connection to a running blkd.
type node struct {
	conn    *grpc.ClientConn
	volumes api.VolumeServiceClient
	node    api.NodeServiceClient
}

// socketPath is where blkd is looked for.
func (a *app) socketPath() string {
	if a.socket != "" {
		return a.socket
	}
	dir := a.dataDir
	if dir == "" {
		dir = api.DefaultDataDir()
	}
	return filepath.Join(dir, api.SocketName)
}

// connect reaches blkd, or says why that does not work.
func (a *app) connect() (*node, error) {
	path := a.socketPath()
	probe, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return nil, unreachable(path, err)
	}
	probe.Close()
	conn, err := api.Dial(path)
	if err != nil {
		return nil, &Error{Code: Failed, Text: err.Error()}
	}
	return &node{conn: conn, volumes: api.NewVolumeServiceClient(conn), node: api.NewNodeServiceClient(conn)}, nil
}

func unreachable(path string, err error) *Error {
	e := &Error{Code: Failed, Text: "no blkd answers at " + path + ": " + err.Error()}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Text = "no blkd runs here: there is no socket " + path
		e.Advice = "start one (blkd --standalone --volume demo=1GiB), or name its socket with --socket or its data directory with --data-dir"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Text = "no blkd runs here: nobody listens on " + path
		e.Advice = "start blkd; look at its log if it has just ended"
	case errors.Is(err, fs.ErrPermission):
		e.Text = "you may not use " + path
		e.Advice = "run blkctl as the user that runs blkd, or as root"
	}
	return e
}

// call connects and runs do, within --timeout.
func (a *app) call(ctx context.Context, do func(context.Context, *node) error) error {
	n, err := a.connect()
	if err != nil {
		return err
	}
	defer n.conn.Close()
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	return do(ctx, n)
}
