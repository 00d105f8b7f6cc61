// Command killloop kills blkd with SIGKILL under load, again and again, and checks after
// each restart that every acknowledged write is there.
//
// Load: sixteen writers on two connections write, trim and zero ranges of 512 bytes to
// 1 MiB, each in its own part of the volume; fio, if it is installed, keeps a second
// volume busy. Every sector's content tells which write it belongs to. After the
// restart each sector must hold the last acknowledged write to it or, if a request was
// in flight when the server died, that request's.
//
// SIGKILL ends the process but not the machine: what reached the page cache survives.
// Power loss is tested on a simulated file system, in package blockdev.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	// The server is to die with the thread that started it, so that thread must stay.
	runtime.LockOSThread()
	var (
		blkd   = flag.String("blkd", "", "blkd `program` to test")
		dir    = flag.String("dir", "", "empty `directory` for the volumes (default: a temporary one)")
		rounds = flag.Int("rounds", 5, "`number` of kills")
		seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the load and of the times to kill")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *blkd, *dir, *rounds, *seed); err != nil {
		fmt.Fprintf(os.Stderr, "killloop: %v (seed %d)\n", err, *seed)
		os.Exit(1)
	}
}

func run(ctx context.Context, blkd, dir string, rounds int, seed uint64) error {
	if blkd == "" {
		return errors.New("name the program to test: -blkd PATH")
	}
	if dir == "" {
		tmp, err := os.MkdirTemp("", "blkd-killloop-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	srv := &server{program: blkd, dir: dir}
	defer srv.kill()
	if err := srv.start(ctx); err != nil {
		return err
	}
	m := newModel(volumeSize, seed)
	var total int64
	for round := 1; round <= rounds; round++ {
		acked, err := loadAndKill(ctx, srv, m, rng)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		total += acked
		again := 0
		for rng.IntN(3) == 0 && again < 3 { // die while recovering, too
			if err := srv.spawn(); err != nil {
				return err
			}
			time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
			srv.kill()
			again++
		}
		began := time.Now()
		if err := srv.start(ctx); err != nil {
			return fmt.Errorf("round %d: after the kill: %w", round, err)
		}
		back := time.Since(began)
		inFlight, err := check(ctx, srv, m)
		if err != nil {
			return fmt.Errorf("round %d: %w\nserver's log:\n%s", round, err, srv.log())
		}
		fmt.Printf("round %d: %d writes acknowledged, %d sectors in flight when killed, %d kills during recovery, back after %v\n",
			round, acked, inFlight, again, back.Round(time.Millisecond))
	}
	if err := srv.stop(); err != nil {
		return fmt.Errorf("stopping at the end: %w\nserver's log:\n%s", err, srv.log())
	}
	fmt.Printf("%d kills, %d acknowledged writes, none lost\n", rounds, total)
	return nil
}

// loadAndKill lets the writers and fio run for a moment and kills the server under
// them. It returns how many mutations were acknowledged.
func loadAndKill(ctx context.Context, srv *server, m *model, rng *rand.Rand) (int64, error) {
	noise := startFio(srv.uri(noiseVolume))
	defer noise.end()
	l, err := startLoad(ctx, srv, m, rng.Uint64())
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(time.Duration(100+rng.IntN(1200)) * time.Millisecond):
	case <-ctx.Done():
	case <-l.failed:
	}
	l.dying.Store(true)
	srv.kill()
	acked, err := l.wait()
	if ctx.Err() != nil {
		return acked, ctx.Err()
	}
	return acked, err
}
