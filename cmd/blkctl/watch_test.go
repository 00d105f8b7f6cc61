package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"testing"

	"blkd/internal/cli"
	"blkd/internal/env"
	"blkd/internal/node"
)

// TestWatch follows a status that changes, until it is interrupted.
func TestWatch(t *testing.T) {
	dir, err := os.MkdirTemp("", "blk") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cfg := node.DefaultConfig()
	cfg.Standalone, cfg.DataDir = true, dir
	cfg.NBD.Listen = []string{"unix:" + dir + "/nbd.sock"}
	n, err := node.Start(cfg, node.World{FS: env.OS{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()

	ctx, interrupt := context.WithCancel(context.Background())
	out, in := io.Pipe()
	exit := make(chan cli.Code, 1)
	go func() {
		exit <- cli.Run(ctx, []string{"--data-dir", dir, "status", "-w=0.1", "-o", "json"}, cli.Streams{Out: in, Err: io.Discard})
		in.Close()
	}()
	lines := json.NewDecoder(out)
	volumes := func() int {
		var s cli.Status
		if err := lines.Decode(&s); err != nil {
			t.Fatal(err)
		}
		return len(s.Volumes)
	}
	if got := volumes(); got != 0 {
		t.Fatalf("%d volumes at first", got)
	}
	if code := cli.Run(context.Background(), []string{"--data-dir", dir, "volume", "create", "demo", "16MiB"},
		cli.Streams{Out: io.Discard, Err: io.Discard}); code != cli.OK {
		t.Fatal("create:", code)
	}
	for volumes() == 0 {
	}
	interrupt()
	go io.Copy(io.Discard, out)
	if code := <-exit; code != cli.Interrupted {
		t.Errorf("exit code %d", code)
	}
}
