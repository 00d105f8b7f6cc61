package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"blkd/internal/env"
	"blkd/internal/version"
)

// Exit codes of blkd.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// witnessMemory is what a witness's collector of garbage aims at, in bytes. With
// the program itself it then stays below 64 MiB.
const witnessMemory = 40 << 20

// drainTime is how long requests in flight may take when blkd is told to stop.
const drainTime = 10 * time.Second

// Main runs blkd with the process's arguments until it is told to stop, and
// returns its exit code.
func Main() int { return run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr) }

func run(args, environ []string, stdout, stderr io.Writer) int {
	inv, err := Load(args, environ)
	switch {
	case inv.Help:
		fmt.Fprint(stdout, Usage())
		return exitOK
	case inv.Version:
		fmt.Fprintln(stdout, "blkd", version.Get())
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "blkd: %v\nblkd --help describes all settings\n", err)
		return exitUsage
	case inv.Check:
		fmt.Fprintln(stdout, "configuration is good")
		return exitOK
	}
	if err := serve(inv.Config, stderr); err != nil {
		fmt.Fprintln(stderr, "blkd:", err)
		return exitFailed
	}
	return exitOK
}

// serve runs a node from start to stop.
func serve(cfg Config, stderr io.Writer) error {
	log := newLog(cfg.Log, stderr, os.Getenv("JOURNAL_STREAM") != "")
	if cfg.Cluster.Witness && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(witnessMemory)
	}
	sockets, err := inherited()
	if err != nil {
		return err
	}
	n, err := Start(cfg, World{FS: env.OS{}, Log: log, NBD: sockets})
	if err != nil {
		return err
	}
	// Until here a signal has killed the process, which may have had long logs to
	// replay. That is as safe as any other crash.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	greeter := io.Discard
	if log.Enabled(context.Background(), slog.LevelInfo) {
		greeter = stderr
	}
	n.greet(greeter)
	go n.announce(greeter)
	go watchdog(n.stopping, log, n.Alive)

	cause := n.wait(signals)
	notify(log, daemon.SdNotifyStopping)
	go hurry(signals, stderr)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		return fmt.Errorf("stopped, but not cleanly: %w", err)
	}
	log.Info("stopped")
	return cause
}

// announce says, to systemd and to people, that the node serves.
func (n *Node) announce(w io.Writer) {
	select {
	case <-n.stopping.Done():
		return
	case <-n.Ready():
	}
	if n.member != nil {
		n.welcome(w)
	}
	notify(n.log, daemon.SdNotifyReady)
}

// wait returns when the node shall stop: nil for a signal, else what broke.
func (n *Node) wait(signals <-chan os.Signal) error {
	for {
		select {
		case err := <-n.Fatal():
			n.log.Error("a server ended, stopping", "err", err)
			return err
		case s := <-signals:
			if s != syscall.SIGHUP {
				n.log.Info("stopping", "signal", s.String())
				return nil
			}
			if err := n.Reload(); err != nil {
				n.log.Error("reload failed, the old certificates stay in use", "err", err)
			} else {
				n.log.Info("reloaded")
			}
		}
	}
}

// hurry leaves at once when a second signal arrives while the node stops. That
// is safe, it only means recovery at the next start.
func hurry(signals <-chan os.Signal, stderr io.Writer) {
	for s := range signals {
		if s != syscall.SIGHUP {
			fmt.Fprintln(stderr, "blkd: second signal, leaving at once")
			os.Exit(exitFailed)
		}
	}
}
