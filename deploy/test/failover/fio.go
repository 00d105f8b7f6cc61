package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// fio is a client that this project did not write: it verifies what it has written
// while it writes, and primaries are killed.
func fio(ctx context.Context, o *options) error {
	if _, err := exec.LookPath("fio"); err != nil {
		fmt.Println("fio is left out: it is not installed (make deps)")
		return nil
	}
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	cmd := exec.Command("fio", "--name=verify", "--ioengine=nbd", "--uri=nbd+unix:///"+volume+"?socket="+r.client.NBD(),
		"--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=32m", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256",
		"--rate_iops=5000", "--time_based", fmt.Sprintf("--runtime=%d", 4*o.rounds+4), "--output="+filepath.Join(r.dir, "fio"), "--aux-path="+r.dir)
	cmd.Dir = r.dir
	ended := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill() //nolint:errcheck // it has ended, but after an error
	kills := 0
	for {
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("fio: %w; it says:\n%s", err, contents(filepath.Join(r.dir, "fio")))
			}
			if kills == 0 {
				return fmt.Errorf("fio has ended before a primary was killed")
			}
			fmt.Printf("fio with verify, 16 in flight, %d kill -9 of the primary and %d others at once: no error\n", kills, o.may()-1)
			return nil
		case <-time.After(time.Second):
		}
		if kills == o.rounds {
			continue
		}
		if err := r.killUnderFio(ctx, o.may()); err != nil {
			return err
		}
		kills++
	}
}

func (r *rig) killUnderFio(ctx context.Context, lost int) error {
	p, err := r.volume.Primary(ctx)
	if err != nil {
		return err
	}
	gone := r.some(p, lost)
	for _, n := range gone {
		n.Kill()
	}
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	for _, n := range gone {
		if err := n.Start(); err != nil {
			return err
		}
	}
	if err := r.Settle(ctx); err != nil {
		return err
	}
	return r.volume.Level(ctx)
}

// contents is a file's text, or why there is none.
func contents(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
