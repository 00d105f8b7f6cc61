package main

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"blkd/internal/cli"
	"blkd/internal/node"
)

// TestMain makes blkd and blkctl commands of the scripts: the test binary runs
// itself as either of them.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"blkd":   func() { os.Exit(node.Main()) },
		"blkctl": func() { os.Exit(cli.Main()) },
	})
}

// TestScripts runs testdata/script/*.txtar, each with a data directory of its
// own; blkd and blkctl find it by their environment.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Sockets' paths are short of room, so not below $WORK's long name.
			dir, err := os.MkdirTemp("", "blk")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("GORACE", "atexit_sleep_ms=0") // each command would sleep a second
			e.Setenv("D", dir)
			e.Setenv("BLKD_DATA_DIR", dir)
			e.Setenv("BLKD_STANDALONE", "true")
			e.Setenv("BLKD_NODE_NAME", "n1")
			e.Setenv("BLKD_NBD", "unix:"+dir+"/nbd.sock")
			e.Setenv("BLKD_STORE_LOG_SIZE", "1MiB")
			e.Setenv("BLKCTL_DATA_DIR", dir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":    ready,
			"exitcode": exitCode,
			"corrupt":  corrupt,
			"term":     term,
		},
	})
}

// ready waits until blkd's control socket answers: "ready".
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: ready")
	}
	path := ts.Getenv("BLKD_DATA_DIR") + "/blkd.sock"
	for range 1000 {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("blkd does not answer on %s", path)
}

// exitCode runs a command that must end with a code: "exitcode 3 blkctl …".
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE COMMAND…")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%s ended with %s, not %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// corrupt overwrites the beginning of a file: "corrupt FILE".
func corrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: corrupt FILE")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.Write(make([]byte, 16<<10))
	ts.Check(err)
	ts.Check(f.Close())
}

// term sends SIGTERM, as systemd does, to the blkd that holds the data
// directory: "term".
func term(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: term")
	}
	text, err := os.ReadFile(ts.Getenv("BLKD_DATA_DIR") + "/lock")
	ts.Check(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
}
