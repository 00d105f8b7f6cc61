package nbd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// raw is a client that sends exactly what a test says.
type raw struct {
	t  testing.TB
	nc net.Conn
}

// rawDial connects to a server's socket and reads the greeting.
func rawDial(t testing.TB, s *testServer) *raw {
	t.Helper()
	nc, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	r := &raw{t, nc}
	if got := r.read(18); be.Uint64(got) != magicServer || be.Uint64(got[8:]) != magicOption || be.Uint16(got[16:]) != 3 {
		t.Fatalf("greeting %x", got)
	}
	return r
}

// rawOptions has sent the client flags too.
func rawOptions(t testing.TB, s *testServer) *raw {
	t.Helper()
	r := rawDial(t, s)
	r.write(be.AppendUint32(nil, clientFixedNewstyle|clientNoZeroes))
	return r
}

// rawTransmit is in the transmission phase of "disk".
func rawTransmit(t testing.TB, s *testServer, mode replyMode) *raw {
	t.Helper()
	r := rawOptions(t, s)
	if mode == modeStructured {
		r.acked(optStructuredReply, nil)
	}
	if mode == modeExtended {
		r.acked(optExtendedHeaders, nil)
	}
	if mode != modeSimple {
		r.acked(optSetMetaContext, metaQuery("disk", contextAllocation))
	}
	r.acked(optGo, goBody("disk"))
	return r
}

func (r *raw) write(p []byte) {
	r.t.Helper()
	if _, err := r.nc.Write(p); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) read(n int) []byte {
	r.t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(r.nc, p); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// closed checks that the server has hung up and sent nothing more.
func (r *raw) closed() {
	r.t.Helper()
	p := make([]byte, 64)
	n, err := r.nc.Read(p)
	var timeout net.Error
	if n != 0 || err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		r.t.Fatalf("expected the end of the connection, got %x, %v", p[:n], err)
	}
}

type optReply struct {
	typ  uint32
	data []byte
}

// option sends an option and returns the replies, of which the last is an ACK or an
// error.
func (r *raw) option(option uint32, data []byte) (replies []optReply) {
	r.t.Helper()
	r.write(appendOption(nil, option, data))
	for {
		h := r.read(20)
		if be.Uint64(h) != magicOptionReply || be.Uint32(h[8:]) != option {
			r.t.Fatalf("reply header %x to option %d", h, option)
		}
		rep := optReply{be.Uint32(h[12:]), r.read(int(be.Uint32(h[16:])))}
		replies = append(replies, rep)
		if rep.typ == repAck || rep.typ&repErrBit != 0 {
			return replies
		}
	}
}

// acked sends an option that must succeed.
func (r *raw) acked(option uint32, data []byte) []optReply {
	r.t.Helper()
	replies := r.option(option, data)
	if last := replies[len(replies)-1]; last.typ != repAck {
		r.t.Fatalf("option %d: %#x %s", option, last.typ, last.data)
	}
	return replies
}

// refused sends an option that must fail with the given reply.
func (r *raw) refused(option uint32, data []byte, want uint32) {
	r.t.Helper()
	replies := r.option(option, data)
	if last := replies[len(replies)-1]; last.typ != want {
		r.t.Errorf("option %d with %x: %#x %q, want %#x", option, data, last.typ, last.data, want)
	}
}

func goBody(name string, items ...uint16) []byte {
	p := be.AppendUint32(nil, uint32(len(name)))
	p = append(p, name...)
	p = be.AppendUint16(p, uint16(len(items)))
	for _, i := range items {
		p = be.AppendUint16(p, i)
	}
	return p
}

func metaQuery(name string, queries ...string) []byte {
	p := be.AppendUint32(nil, uint32(len(name)))
	p = append(p, name...)
	p = be.AppendUint32(p, uint32(len(queries)))
	for _, q := range queries {
		p = be.AppendUint32(p, uint32(len(q)))
		p = append(p, q...)
	}
	return p
}

// request sends a command.
func (r *raw) request(mode replyMode, w wireRequest, payload []byte) {
	r.t.Helper()
	p := make([]byte, extRequestLen)
	p = p[:putRequest(p, mode, w)]
	r.write(append(p, payload...))
}

// answer is a decoded reply.
type answer struct {
	cookie uint64
	errno  uint32
	text   string
	data   []byte // of OFFSET_DATA, or the body of block status
	simple bool
	holes  int // OFFSET_HOLE chunks
}

// answer reads one whole reply; simple replies of READ have n bytes of data.
func (r *raw) answer(mode replyMode, n int) (a answer) {
	r.t.Helper()
	magic := be.Uint32(r.read(4))
	if magic == magicReply && mode != modeExtended {
		h := r.read(12)
		a = answer{errno: be.Uint32(h), cookie: be.Uint64(h[4:]), simple: true}
		if a.errno == 0 {
			a.data = r.read(n)
		}
		return a
	}
	for {
		h := r.read(mode.chunkHeaderLen() - 4)
		length := 0
		if mode == modeExtended && magic == magicExtReply {
			length = int(be.Uint64(h[20:]))
		} else if mode == modeStructured && magic == magicStructuredReply {
			length = int(be.Uint32(h[12:]))
		} else {
			r.t.Fatalf("reply magic %#x", magic)
		}
		a.cookie = be.Uint64(h[4:])
		body := r.read(length)
		switch typ := be.Uint16(h[2:]); typ {
		case chunkNone:
		case chunkOffsetData:
			a.data = append(a.data, body[8:]...)
		case chunkOffsetHole:
			a.holes++
			a.data = append(a.data, make([]byte, be.Uint32(body[8:]))...)
		case chunkBlockStatus, chunkBlockStatusExt:
			a.data = body
		case chunkError:
			a.errno, a.text = be.Uint32(body), string(body[6:])
		default:
			r.t.Fatalf("chunk type %d", typ)
		}
		if be.Uint16(h)&chunkFlagDone != 0 {
			return a
		}
		magic = be.Uint32(r.read(4))
	}
}

// logs collects what a server logs.
type logs struct {
	mu  chan struct{}
	buf bytes.Buffer
}

func newLogs() *logs { return &logs{mu: make(chan struct{}, 1)} }

func (l *logs) Write(p []byte) (int, error) {
	l.mu <- struct{}{}
	defer func() { <-l.mu }()
	return l.buf.Write(p)
}

// wait returns what was logged as soon as it contains a text.
func (l *logs) wait(t testing.TB, want string) string {
	t.Helper()
	for range 1000 {
		l.mu <- struct{}{}
		s := l.buf.String()
		<-l.mu
		if strings.Contains(s, want) {
			return s
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%q was not logged", want)
	return ""
}
