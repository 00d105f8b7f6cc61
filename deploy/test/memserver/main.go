// Command memserver serves a disk in memory with the server of package nbd: the NBD
// edge alone, for comparison with nbdkit's memory plugin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"blkd/blockdev"
	"blkd/internal/units"
	"blkd/nbd"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:10809", "`address`: HOST:PORT or unix:PATH")
	size := flag.String("size", "256MiB", "size of the disk")
	name := flag.String("export", "memory", "name of the export")
	flag.Parse()
	if err := run(*listen, *size, *name); err != nil {
		fmt.Fprintln(os.Stderr, "memserver:", err)
		os.Exit(1)
	}
}

func run(listen, size, name string) error {
	n, err := units.ParseSize(size)
	if err != nil {
		return err
	}
	network, address := "tcp", listen
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		network, address = "unix", path
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	srv := nbd.NewServer(nbd.Options{})
	if err := srv.SetExport(nbd.Export{Name: name, Device: blockdev.NewMemory(n)}); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.Serve(l); !errors.Is(err, nbd.ErrServerClosed) {
		return err
	}
	return nil
}
