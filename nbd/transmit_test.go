package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blkd/blockdev"
)

var allModes = []replyMode{modeSimple, modeStructured, modeExtended}

// failing answers every request with err.
type failing struct {
	blockdev.Device
	err atomic.Pointer[error]
}

func (f *failing) Submit(batch []*blockdev.Request) {
	if err := f.err.Load(); err != nil {
		for _, r := range batch {
			r.Finish(*err)
		}
		return
	}
	f.Device.Submit(batch)
}

func TestCommands(t *testing.T) {
	const size = 64 << 20
	payload := bytes.Repeat([]byte("0123456789abcdef"), 256)
	for _, mode := range allModes {
		s := startServer(t, Options{}, blockdev.NewMemory(size))
		r := rawTransmit(t, s, mode)
		ext, str := mode == modeExtended, mode != modeSimple
		pick := func(cond bool, a, b uint32) uint32 {
			if cond {
				return a
			}
			return b
		}
		for i, c := range []struct {
			name    string
			w       wireRequest
			payload []byte
			errno   uint32
			data    []byte
		}{
			{"write", wireRequest{cmd: cmdWrite, offset: 100, length: 4096}, payload, 0, nil},
			{"write FUA", wireRequest{cmd: cmdWrite, flags: cmdFlagFUA, offset: 4196, length: 4096}, payload, 0, nil},
			{"read", wireRequest{cmd: cmdRead, offset: 4196, length: 4096}, nil, 0, payload},
			{"read FUA", wireRequest{cmd: cmdRead, flags: cmdFlagFUA, offset: 100, length: 16}, nil, 0, payload[:16]},
			{"read DF", wireRequest{cmd: cmdRead, flags: cmdFlagDF, offset: 100, length: 16}, nil, pick(str, 0, errnoInval), payload[:16]},
			{"read nothing", wireRequest{cmd: cmdRead, offset: size}, nil, 0, nil},
			{"read the last byte", wireRequest{cmd: cmdRead, offset: size - 1, length: 1}, nil, 0, []byte{0}},
			{"read beyond", wireRequest{cmd: cmdRead, offset: size - 1, length: 2}, nil, errnoInval, nil},
			{"read far beyond", wireRequest{cmd: cmdRead, offset: 1<<64 - 1, length: 2}, nil, errnoInval, nil},
			{"read too long", wireRequest{cmd: cmdRead, length: maxPayload + 1}, nil, errnoInval, nil},
			{"read with a wrong flag", wireRequest{cmd: cmdRead, flags: cmdFlagNoHole, length: 1}, nil, errnoInval, nil},
			{"write beyond", wireRequest{cmd: cmdWrite, offset: size, length: 4096}, payload, errnoNoSpace, nil},
			{"write with a wrong flag", wireRequest{cmd: cmdWrite, flags: 1 << 9, length: 4096}, payload, errnoInval, nil},
			{"write with a payload length", wireRequest{cmd: cmdWrite, flags: cmdFlagPayloadLen, length: 4096}, payload, pick(ext, 0, errnoInval), nil},
			{"flush", wireRequest{cmd: cmdFlush}, nil, 0, nil},
			{"flush with a range", wireRequest{cmd: cmdFlush, offset: 1 << 63, length: 1 << 31}, nil, 0, nil},
			{"trim", wireRequest{cmd: cmdTrim, offset: 4096, length: 4096}, nil, 0, nil},
			{"trim FUA", wireRequest{cmd: cmdTrim, flags: cmdFlagFUA, length: size}, nil, 0, nil},
			{"trim beyond", wireRequest{cmd: cmdTrim, offset: 1, length: size}, nil, errnoInval, nil},
			{"trim with a wrong flag", wireRequest{cmd: cmdTrim, flags: cmdFlagFastZero}, nil, errnoInval, nil},
			{"zero", wireRequest{cmd: cmdWriteZeroes, flags: cmdFlagNoHole | cmdFlagFastZero | cmdFlagFUA, length: size}, nil, 0, nil},
			{"zero beyond", wireRequest{cmd: cmdWriteZeroes, offset: size, length: 1}, nil, errnoNoSpace, nil},
			{"cache", wireRequest{cmd: cmdCache, length: size}, nil, 0, nil},
			{"cache beyond", wireRequest{cmd: cmdCache, offset: size, length: 1}, nil, errnoInval, nil},
			{"resize", wireRequest{cmd: 8}, nil, errnoInval, nil},
			{"unknown", wireRequest{cmd: 999}, nil, errnoInval, nil},
			{"status of nothing", wireRequest{cmd: cmdBlockStatus}, nil, errnoInval, nil},
			{"status beyond", wireRequest{cmd: cmdBlockStatus, offset: size, length: 1}, nil, errnoInval, nil},
		} {
			c.w.cookie = uint64(i) << 32
			r.request(mode, c.w, c.payload)
			a := r.answer(mode, int(c.w.length)*btoi(c.w.cmd == cmdRead))
			if a.cookie != c.w.cookie || a.errno != c.errno || c.errno == 0 && !bytes.Equal(a.data, c.data) {
				t.Errorf("mode %d: %s: errno %d (%s), %d bytes; want errno %d", mode, c.name, a.errno, a.text, len(a.data), c.errno)
			}
			if str && (c.w.cmd == cmdRead && a.simple || c.errno != 0 && a.text == "") {
				t.Errorf("mode %d: %s: simple %v, text %q", mode, c.name, a.simple, a.text)
			}
		}
		r.request(mode, wireRequest{cmd: cmdDisc}, nil)
		r.closed()
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestBlockStatus(t *testing.T) {
	dev := blockdev.NewMemory(1 << 20)
	s := startServer(t, Options{}, dev)
	if err := blockdev.WriteAt(dev, []byte{1}, 128<<10, 0); err != nil {
		t.Fatal(err)
	}
	for _, mode := range allModes[1:] {
		encode := func(pairs ...uint64) (p []byte) {
			p = be.AppendUint32(nil, contextAllocationID)
			if mode == modeExtended {
				p = be.AppendUint32(p, uint32(len(pairs)/2))
			}
			for _, v := range pairs {
				if mode == modeExtended {
					p = be.AppendUint64(p, v)
				} else {
					p = be.AppendUint32(p, uint32(v))
				}
			}
			return p
		}
		r := rawTransmit(t, s, mode)
		for _, c := range []struct {
			flags       uint16
			off, length uint64
			want        []byte
		}{
			{0, 0, 1 << 20, encode(128<<10, 3, 64<<10, 0, 832<<10, 3)},
			{cmdFlagReqOne, 0, 1 << 20, encode(128<<10, 3)},
			{0, 100, 1, encode(1, 3)},
			{cmdFlagReqOne, 128 << 10, 1 << 10, encode(1<<10, 0)},
		} {
			r.request(mode, wireRequest{cmd: cmdBlockStatus, flags: c.flags, offset: c.off, length: c.length}, nil)
			if a := r.answer(mode, 0); a.errno != 0 || !bytes.Equal(a.data, c.want) {
				t.Errorf("mode %d, %+v: %x", mode, c, a.data)
			}
		}
	}
	r := rawTransmit(t, s, modeExtended)
	for _, c := range []struct {
		ids   []uint32
		errno uint32
	}{{[]uint32{contextAllocationID}, 0}, {nil, errnoInval}, {[]uint32{7}, errnoInval}} {
		p := be.AppendUint64(nil, 4096)
		for _, id := range c.ids {
			p = be.AppendUint32(p, id)
		}
		r.request(modeExtended, wireRequest{cmd: cmdBlockStatus, flags: cmdFlagPayloadLen, length: uint64(len(p))}, p)
		if a := r.answer(modeExtended, 0); a.errno != c.errno {
			t.Errorf("block status with a payload of ids %v: %+v", c.ids, a)
		}
	}
	// The payload of a command that must have none is consumed.
	r.request(modeExtended, wireRequest{cmd: cmdTrim, flags: cmdFlagPayloadLen, length: 10}, make([]byte, 10))
	if a := r.answer(modeExtended, 0); a.errno != errnoInval {
		t.Errorf("trim with a payload: %+v", a)
	}
	r.request(modeExtended, wireRequest{cmd: cmdFlush, cookie: 4, offset: 5}, nil)
	if a := r.answer(modeExtended, 0); a.errno != 0 || a.cookie != 4 {
		t.Errorf("flush afterwards: %+v", a)
	}
}

func TestDeviceErrors(t *testing.T) {
	dev := &failing{Device: blockdev.NewMemory(1 << 20)}
	s := startServer(t, Options{}, dev)
	for _, mode := range allModes {
		r := rawTransmit(t, s, mode)
		for _, c := range []struct {
			err         error
			read, write uint32
		}{
			{blockdev.ErrRange, errnoInval, errnoNoSpace},
			{&blockdev.RangeError{}, errnoInval, errnoNoSpace},
			{blockdev.ErrReadOnly, errnoPerm, errnoPerm},
			{fmt.Errorf("log: %w", blockdev.ErrNoSpace), errnoNoSpace, errnoNoSpace},
			{blockdev.ErrNotSupported, errnoNotSup, errnoNotSup},
			{blockdev.ErrInvalid, errnoInval, errnoInval},
			{blockdev.ErrClosed, errnoShutdown, errnoShutdown},
			{&blockdev.ChecksumError{Volume: "v"}, errnoIO, errnoIO},
			{errors.New(strings.Repeat("long", 2000)), errnoIO, errnoIO},
		} {
			dev.err.Store(&c.err)
			for cmd, want := range map[uint16]uint32{cmdRead: c.read, cmdWriteZeroes: c.write} {
				r.request(mode, wireRequest{cmd: cmd, length: 4096}, nil)
				if a := r.answer(mode, 4096); a.errno != want {
					t.Errorf("mode %d: %v answers %s with %d, want %d", mode, c.err, commandNames[cmd], a.errno, want)
				}
			}
		}
	}
	if err := s.SetExport(Export{Name: "disk", Device: dev, HangUp: true}); err != nil {
		t.Fatal(err)
	}
	closed := error(blockdev.ErrClosed)
	dev.err.Store(&closed)
	r := rawTransmit(t, s, modeSimple)
	r.request(modeSimple, wireRequest{cmd: cmdRead, length: 4096}, nil)
	r.closed()
	st := s.Stats()
	if st.Exports[0].Ops[cmdRead].Errors != 1 || st.Exports[0].Ops[cmdRead].Requests != 1 {
		t.Errorf("statistics: %+v", st.Exports[0].Ops[cmdRead])
	}
}

func TestReadOnlyExport(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	s.SetExport(Export{Name: "disk", Device: s.dev, ReadOnly: true})
	r := rawTransmit(t, s, modeSimple)
	for i, cmd := range []uint16{cmdWrite, cmdTrim, cmdWriteZeroes, cmdWrite} {
		var payload []byte
		if cmd == cmdWrite {
			payload = make([]byte, 300<<10*i+512) // in the buffer, and longer than it
		}
		r.request(modeSimple, wireRequest{cmd: cmd, length: uint64(len(payload))}, payload)
		if a := r.answer(modeSimple, 0); a.errno != errnoPerm {
			t.Errorf("command %d: errno %d", cmd, a.errno)
		}
	}
	r.request(modeSimple, wireRequest{cmd: cmdRead, length: 512}, nil)
	if a := r.answer(modeSimple, 512); a.errno != 0 {
		t.Errorf("read: %+v", a)
	}
}

func TestTransmissionEnds(t *testing.T) {
	log := newLogs()
	s := startServer(t, Options{Logger: slog.New(slog.NewTextHandler(log, nil))}, blockdev.NewMemory(1<<20))
	long := make([]byte, requestLen)
	putRequest(long, modeSimple, wireRequest{cmd: cmdWrite, length: maxPayload + 1})
	for name, c := range map[string]struct {
		send []byte
		log  string
	}{
		"bad magic":    {bytes.Repeat([]byte{7}, requestLen), "bad request magic"},
		"long write":   {long, "33554433 bytes of payload"},
		"half request": {long[:10], "middle of a request"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rawTransmit(t, s, modeSimple)
			r.write(c.send)
			r.nc.(*net.UnixConn).CloseWrite()
			r.closed()
			log.wait(t, c.log)
		})
	}
	r := rawTransmit(t, s, modeSimple)
	putRequest(long, modeSimple, wireRequest{cmd: cmdWrite, length: 1 << 20})
	r.write(append(long, make([]byte, 1000)...))
	r.nc.(*net.UnixConn).CloseWrite()
	r.closed()
	log.wait(t, "middle of a payload")
}

func TestSparseRead(t *testing.T) {
	const size = 4 << 20
	dev := blockdev.NewMemory(size)
	s := startServer(t, Options{}, dev)
	want := make([]byte, size)
	for _, at := range []int{0, 40 << 10, 300 << 10, 1<<20 + 7, size - 1} {
		want[at] = byte(at) | 1
	}
	for at := 2 << 20; at < 4<<20; at += 64 << 10 { // more runs than the headroom has headers for
		want[at] = 1
	}
	if err := blockdev.WriteAt(dev, want, 0, 0); err != nil {
		t.Fatal(err)
	}
	for _, mode := range allModes {
		r := rawTransmit(t, s, mode)
		for _, c := range []struct {
			flags    uint16
			off, len int
		}{{0, 0, size}, {cmdFlagDF, 0, size}, {0, 4096, 1<<20 + 1}, {0, 2 << 20, 2<<20 - 3}, {0, 1 << 20, sparseRead}, {0, 1<<20 + 8, 512 << 10}} {
			if mode == modeSimple && c.flags != 0 {
				continue
			}
			r.request(mode, wireRequest{cmd: cmdRead, flags: c.flags, cookie: 1, offset: uint64(c.off), length: uint64(c.len)}, nil)
			a := r.answer(mode, c.len)
			if a.errno != 0 || !bytes.Equal(a.data, want[c.off:c.off+c.len]) {
				t.Errorf("mode %d: read %+v differs (errno %d, %d bytes)", mode, c, a.errno, len(a.data))
			}
			if wantHoles := mode != modeSimple && c.flags == 0; (a.holes > 0) != wantHoles {
				t.Errorf("mode %d: read %+v has %d holes", mode, c, a.holes)
			}
		}
	}
}

// slow finishes requests only when told to.
type slow struct {
	blockdev.Device
	held chan *blockdev.Request
}

func newSlow(size int64) *slow {
	return &slow{blockdev.NewMemory(size), make(chan *blockdev.Request, 10000)}
}

func (s *slow) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		s.held <- r
	}
}

// letGo finishes n requests.
func (s *slow) letGo(n int) {
	for range n {
		s.Device.Submit([]*blockdev.Request{<-s.held})
	}
}

func TestDisconnectFinishesRequests(t *testing.T) {
	for _, disc := range []bool{true, false} {
		dev := newSlow(1 << 20)
		s := startServer(t, Options{}, dev)
		r := rawTransmit(t, s, modeSimple)
		for i := range 10 {
			r.request(modeSimple, wireRequest{cmd: cmdWrite, cookie: uint64(i), length: 512}, make([]byte, 512))
		}
		if disc {
			r.request(modeSimple, wireRequest{cmd: cmdDisc}, nil)
		} else {
			r.nc.(*net.UnixConn).CloseWrite()
		}
		time.Sleep(20 * time.Millisecond) // let the server see it first
		dev.letGo(10)
		for i := range 10 {
			if a := r.answer(modeSimple, 0); a.errno != 0 || a.cookie != uint64(i) {
				t.Errorf("DISC %v: reply %d is %+v", disc, i, a)
			}
		}
		r.closed()
	}
}

// TestBlockedSubmit checks that replies are sent while Submit blocks.
func TestBlockedSubmit(t *testing.T) {
	dev := &blocking{Device: blockdev.NewMemory(1 << 20), release: make(chan struct{})}
	s := startServer(t, Options{}, dev)
	r := rawTransmit(t, s, modeSimple)
	r.request(modeSimple, wireRequest{cmd: cmdFlush, cookie: 1}, nil)
	if a := r.answer(modeSimple, 0); a.cookie != 1 { // answered inside Submit, which goes on
		t.Errorf("reply %+v", a)
	}
	close(dev.release)
}

// blocking finishes the batch and then blocks in Submit.
type blocking struct {
	blockdev.Device
	release chan struct{}
}

func (b *blocking) Submit(batch []*blockdev.Request) {
	b.Device.Submit(batch)
	<-b.release
}

// TestLongReadsAreSentOneByOne checks that long READs that arrive together are not
// gathered: each would wait for all, out of the processor's cache.
func TestLongReadsAreSentOneByOne(t *testing.T) {
	const n, length = 8, 1 << 20
	dev := &batchSizes{Device: blockdev.NewMemory(length)}
	s := startServer(t, Options{}, dev)
	r := rawTransmit(t, s, modeSimple)
	var all []byte
	for i := range n {
		p := make([]byte, extRequestLen)
		all = append(all, p[:putRequest(p, modeSimple, wireRequest{cmd: cmdRead, length: length, cookie: uint64(i)})]...)
	}
	r.write(all)
	for i := range n {
		if a := r.answer(modeSimple, length); a.errno != 0 || a.cookie != uint64(i) {
			t.Fatalf("reply %d is to %d, error %d", i, a.cookie, a.errno)
		}
	}
	if most := dev.most.Load(); most != 1 {
		t.Errorf("%d READs of %d bytes came in one batch", most, length)
	}
}

// batchSizes remembers how long a batch became.
type batchSizes struct {
	blockdev.Device
	most atomic.Int64 // requests
}

func (d *batchSizes) Submit(batch []*blockdev.Request) {
	d.most.Store(max(d.most.Load(), int64(len(batch))))
	d.Device.Submit(batch)
}
