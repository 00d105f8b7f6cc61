package nbd

import (
	"context"
	"errors"
	"math/rand"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"blkd/blockdev"
)

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

// flood writes until the server has not taken anything for a while.
func flood(nc net.Conn, p []byte) (sent int) {
	for {
		nc.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := nc.Write(p)
		sent += n
		if err != nil {
			return sent
		}
	}
}

// TestClientThatNeverReads: replies that nobody reads hold a bounded amount of
// memory, and others are served meanwhile.
func TestClientThatNeverReads(t *testing.T) {
	const limit = 64 << 20
	s := startServer(t, Options{MaxConnectionBytes: limit, MaxServerBytes: limit}, blockdev.NewMemory(64<<20))
	read := make([]byte, extRequestLen)
	read = read[:putRequest(read, modeSimple, wireRequest{cmd: cmdRead, length: 1 << 20})]
	bad := rawTransmit(t, s, modeSimple)
	flood(bad.nc, read)
	if used := s.Stats().BufferBytes; used > limit || used < limit/2 {
		t.Errorf("a client that never reads holds %d bytes, limit %d", used, limit)
	}
	good := rawTransmit(t, s, modeSimple)
	for range 100 { // small requests need nothing of what is used up
		good.request(modeSimple, wireRequest{cmd: cmdRead, length: 4096}, nil)
		if a := good.answer(modeSimple, 4096); a.errno != 0 {
			t.Fatalf("read: %+v", a)
		}
	}
	bad.nc.Close()
	eventually(t, "the memory comes back", func() bool { return s.Stats().BufferBytes == 0 })
}

// TestStalledClients: when the server's memory is used up by clients that do not
// move, they are disconnected for those who wait.
func TestStalledClients(t *testing.T) {
	s := startServer(t, Options{StallTimeout: 300 * time.Millisecond, MaxServerBytes: 1}, blockdev.NewMemory(64<<20))
	head := make([]byte, requestLen)
	putRequest(head, modeSimple, wireRequest{cmd: cmdWrite, length: maxPayload})
	for range 2 { // announce 32 MiB each and send a byte now and then
		r := rawTransmit(t, s, modeSimple)
		r.write(head)
		go func() {
			for {
				if _, err := r.nc.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	eventually(t, "the memory is used up", func() bool { return s.Stats().BufferBytes == 64<<20 })
	c := dialTest(t, s.uri("disk"), DialOptions{})
	if err := blockdev.WriteAt(c, make([]byte, 1<<20), 0, 0); err != nil {
		t.Error(err)
	}
}

func TestMaxRequests(t *testing.T) {
	dev := newSlow(64 << 20)
	s := startServer(t, Options{MaxRequests: 5}, dev)
	r := rawTransmit(t, s, modeSimple)
	for range 100 {
		r.request(modeSimple, wireRequest{cmd: cmdFlush}, nil)
	}
	eventually(t, "5 requests arrive", func() bool { return len(dev.held) == 5 })
	time.Sleep(20 * time.Millisecond)
	if n := len(dev.held); n != 5 {
		t.Errorf("%d requests in flight, limit 5", n)
	}
	dev.letGo(100)
	for range 100 {
		r.answer(modeSimple, 0)
	}
}

func TestShutdown(t *testing.T) {
	dev := newSlow(1 << 20)
	s := startServer(t, Options{}, dev)
	r := rawTransmit(t, s, modeSimple)
	half := rawDial(t, s)
	r.request(modeSimple, wireRequest{cmd: cmdFlush, cookie: 3}, nil)
	eventually(t, "the request arrives", func() bool { return len(dev.held) == 1 })
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	half.closed()
	eventually(t, "the server stops listening", func() bool {
		nc, err := net.Dial("unix", s.path)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v with a request in flight", err)
	default:
	}
	dev.letGo(1)
	if a := r.answer(modeSimple, 0); a.cookie != 3 || a.errno != 0 {
		t.Errorf("reply %+v", a)
	}
	r.closed()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

func TestShutdownTimeout(t *testing.T) {
	dev := newSlow(1 << 20)
	s := startServer(t, Options{}, dev)
	r := rawTransmit(t, s, modeSimple)
	r.request(modeSimple, wireRequest{cmd: cmdFlush}, nil)
	eventually(t, "the request arrives", func() bool { return len(dev.held) == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	r.closed()
	dev.letGo(1) // or the clean-up waits for ever
}

func TestReplaceExport(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	r := rawTransmit(t, s, modeSimple)
	if err := s.SetExport(Export{Name: "disk", Device: blockdev.NewMemory(2 << 20)}); err != nil {
		t.Fatal(err)
	}
	r.closed()
	if c := dialTest(t, s.uri("disk"), DialOptions{}); c.Size() != 2<<20 {
		t.Errorf("size %d", c.Size())
	}
	if err := s.SetExport(Export{Name: "none"}); err == nil {
		t.Error("an export without a device is accepted")
	}
}

// TestGarbage: connections that send rubbish leave nothing behind.
func TestGarbage(t *testing.T) {
	n := 10000
	if testing.Short() {
		n = 500
	}
	s := startServer(t, Options{Logger: testLogger(t)}, blockdev.NewMemory(1<<20))
	rng := rand.New(rand.NewSource(1))
	prefixes := [][]byte{
		nil,
		be.AppendUint32(nil, 3),
		append(be.AppendUint32(nil, 3), appendOption(nil, optGo, goBody("disk"))...),
		append(be.AppendUint32(nil, 3), appendOption(nil, optGo, make([]byte, 60<<10))[:1000]...),
	}
	one := func(i int) {
		nc, err := net.Dial("unix", s.path)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		p := make([]byte, rng.Intn(200))
		rng.Read(p)
		nc.Write(append(append([]byte(nil), prefixes[i%len(prefixes)]...), p...))
	}
	settle := func() (goroutines int, heap uint64) {
		eventually(t, "all connections end", func() bool {
			st := s.Stats()
			return st.Connections == 0 && st.Handshakes == 0
		})
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	r := rawTransmit(t, s, modeSimple) // the sweeper starts
	r.nc.Close()
	for i := range 100 { // pools fill
		one(i)
	}
	goroutines, heap := settle()
	for i := range n {
		one(i)
	}
	after, heapAfter := settle()
	for i := 0; i < 500 && after > goroutines; i++ { // the last ones are on their way out
		time.Sleep(10 * time.Millisecond)
		after = runtime.NumGoroutine()
	}
	if after > goroutines {
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		t.Errorf("%d goroutines became %d", goroutines, after)
	}
	t.Logf("%d goroutines and %d bytes of heap, then %d and %d", goroutines, heap, after, heapAfter)
	if heapAfter > heap+4<<20 {
		t.Errorf("the heap grew from %d to %d bytes", heap, heapAfter)
	}
	if s.Stats().BufferBytes != 0 {
		t.Errorf("%d bytes are still charged", s.Stats().BufferBytes)
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err != nil || len(entries) > 200 {
		t.Errorf("%d file descriptors are open (%v)", len(entries), err)
	}
}

// TestMemoryOfLongRequests: far more bytes than the budget pass through a
// connection, and all of them are given back.
func TestMemoryOfLongRequests(t *testing.T) {
	s := startServer(t, Options{}, newAsync(t, blockdev.NewMemory(maxPayload)))
	c := dialTest(t, s.uri("disk"), DialOptions{})
	buf := make([]byte, maxPayload)
	for range 3 {
		for _, n := range []int{maxPayload, 1<<20 + 1, 200 << 10, 100} {
			if err := blockdev.WriteAt(c, buf[:n], 0, 0); err != nil {
				t.Fatal(err)
			}
			if err := blockdev.ReadAt(c, buf[:n], 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the memory comes back", func() bool { return s.Stats().BufferBytes == 0 })
}
