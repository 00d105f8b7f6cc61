package main

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
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
			return clusterEnv(e)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":      ready,
			"exitcode":   exitCode,
			"corrupt":    corrupt,
			"term":       term,
			"eventually": eventually,
			"until":      until,
			"hup":        hup,
		},
	})
}

// clusterEnv names addresses for three nodes and a witness: $N1 to $N3 and $W1, the
// founding list of the first three, and that of two and the witness.
func clusterEnv(e *testscript.Env) error {
	var listeners []net.Listener
	address := func() (string, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		listeners = append(listeners, l) // so that the next one differs
		return l.Addr().String(), nil
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	list := map[string]string{}
	for _, name := range []string{"n1", "n2", "n3", "w1"} {
		a, err := address()
		if err != nil {
			return err
		}
		e.Setenv(strings.ToUpper(name), a)
		list[name] = name + "=" + a
	}
	e.Setenv("LIST", strings.Join([]string{list["n1"], list["n2"], list["n3"]}, ","))
	e.Setenv("WLIST", strings.Join([]string{list["n1"], list["n2"], list["w1"]}, ","))
	return nil
}

// eventually repeats a command until it succeeds: "eventually COMMAND…".
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: eventually COMMAND…")
	}
	repeat(ts, args, func(err error) bool { return err == nil })
}

// until repeats a command until its standard output matches: "until REGEXP COMMAND…".
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND…")
	}
	match, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	repeat(ts, args[1:], func(error) bool { return match.MatchString(ts.ReadFile("stdout")) })
}

func repeat(ts *testscript.TestScript, args []string, done func(error) bool) {
	for range 300 {
		if done(ts.Exec(args[0], args[1:]...)) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%s: what is waited for never came", strings.Join(args, " "))
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
	send(ts, syscall.SIGTERM, ts.Getenv("BLKD_DATA_DIR"))
}

// hup sends SIGHUP to the blkd that holds a data directory: "hup DIR".
func hup(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hup DIR")
	}
	send(ts, syscall.SIGHUP, args[0])
}

func send(ts *testscript.TestScript, sig syscall.Signal, dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "lock"))
	ts.Check(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, sig))
}
