package nbd

import (
	"fmt"
	"runtime"
	"testing"

	"blkd/blockdev"
)

// TestSteadyStateAllocations: server and client together allocate nothing per
// request once their pools are full.
func TestSteadyStateAllocations(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(16<<20))
	if err := blockdev.WriteZeroes(s.dev, 0, s.dev.Size(), blockdev.NoHole); err != nil {
		t.Fatal(err)
	}
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite} {
		for _, depth := range []int{1, 32} {
			for _, opts := range []DialOptions{{}, {Simple: true}, {NoExtended: true}} {
				l := newLoad(dialTest(t, s.uri("disk"), opts), op, depth, 4096)
				l.run(t, 2000)
				const n = 5000
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				l.run(t, n)
				runtime.ReadMemStats(&after)
				// Others in the process allocate now and then.
				if got := float64(after.Mallocs-before.Mallocs) / n; got > 0.1 {
					t.Errorf("%v at depth %d with %+v: %.2f allocations per request", op, depth, opts, got)
				}
			}
		}
	}
}

func TestStats(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	c := dialTest(t, s.uri("disk"), DialOptions{})
	buf := make([]byte, 4096)
	for range 640 {
		if err := blockdev.WriteAt(c, buf, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	check := func(connections int) {
		t.Helper()
		st := s.Stats()
		if st.Connections != connections || st.Accepted != 1 || st.Refused != 0 || len(st.Exports) != 1 {
			t.Fatalf("%+v", st)
		}
		e := st.Exports[0]
		if e.Name != "disk" || e.Connections != connections || e.Accepted != 1 {
			t.Errorf("%+v", e)
		}
		var op OpStats
		for _, o := range e.Ops {
			if o.Op == "write" {
				op = o
			}
		}
		samples := uint64(0)
		for _, n := range op.Latency {
			samples += n
		}
		if op.Requests != 640 || op.Bytes != 640*4096 || op.Errors != 0 || samples != 640/latSample {
			t.Errorf("%+v, %d samples", op, samples)
		}
	}
	check(1)
	c.Close()
	eventually(t, "the connection ends", func() bool { return s.Stats().Connections == 0 })
	check(0) // counters outlive the connection
}

func TestParseURI(t *testing.T) {
	for in, want := range map[string]URI{
		"nbd://localhost":                         {Network: "tcp", Address: "localhost:10809", ServerName: "localhost"},
		"nbd://127.0.0.1:99/a%20b/c":              {Network: "tcp", Address: "127.0.0.1:99", Export: "a b/c", ServerName: "127.0.0.1"},
		"nbds://[::1]/x?tls-hostname=h":           {Network: "tcp", Address: "[::1]:10809", Export: "x", TLS: true, ServerName: "h"},
		"nbd+unix:///?socket=/run/s":              {Network: "unix", Address: "/run/s", ServerName: "localhost"},
		"nbd+unix:///e?socket=rel":                {Network: "unix", Address: "rel", Export: "e", ServerName: "localhost"},
		"nbds+unix://h/e?socket=/s":               {Network: "unix", Address: "/s", Export: "e", TLS: true, ServerName: "h"},
		"nbds://h/?tls-certificates=%2Fetc%2Fpki": {Network: "tcp", Address: "h:10809", TLS: true, ServerName: "h", Certificates: "/etc/pki"},
		"http://h/x":                              {}, "nbd:///x": {}, "nbd://h:0/x": {}, "nbd://h:70000": {}, "nbd+unix:///x": {}, "%": {}, "nbd+vsock:///x": {},
	} {
		got, err := ParseURI(in)
		if got != want || (err != nil) != (want == URI{}) {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
		if again, err2 := ParseURI(got.String()); err == nil && (again != got || err2 != nil) {
			t.Errorf("%s is written %s, which is %+v, %v", in, got, again, err2)
		}
	}
}

// TestManyClients mixes inline and late completion over several connections.
func TestManyClients(t *testing.T) {
	for name, dev := range map[string]blockdev.Device{
		"inline": blockdev.NewMemory(16 << 20), "async": newAsync(t, blockdev.NewMemory(16<<20)),
	} {
		for _, requests := range []int{2, 1024} {
			t.Run(fmt.Sprint(name, requests), func(t *testing.T) {
				s := startServer(t, Options{MaxRequests: requests}, dev)
				c := dialTest(t, s.uri("disk"), DialOptions{Connections: 3})
				for seed := range int64(3) {
					exercise(t, c, seed)
				}
			})
		}
	}
}
