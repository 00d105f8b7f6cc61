package nbd

import (
	"io"
	"net"
	"testing"
	"time"

	"blkd/blockdev"
)

// fuzzOptions keep what a fuzzer makes the server do small.
var fuzzOptions = Options{HandshakeTimeout: 2 * time.Second, MaxRequests: 8}

// feed gives a server input as one connection, throws its output away, and waits for
// it to be done with the connection.
func feed(t *testing.T, s *Server, input []byte) {
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		s.ServeConn(server)
		close(done)
	}()
	go io.Copy(io.Discard, client)
	client.SetDeadline(time.Now().Add(20 * time.Second))
	client.Write(input) // fails when the server has had enough
	client.Close()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not end the connection")
	}
	if used := s.Stats().BufferBytes; used != 0 {
		t.Fatalf("%d bytes are still charged", used)
	}
}

func fuzzServer(tb testing.TB) *Server {
	s := NewServer(fuzzOptions)
	if err := s.SetExport(Export{Name: "disk", Description: "d", Device: blockdev.NewMemory(1 << 20)}); err != nil {
		tb.Fatal(err)
	}
	return s
}

// FuzzNegotiation feeds the option phase: client flags and options.
func FuzzNegotiation(f *testing.F) {
	hello := be.AppendUint32(nil, 3)
	for _, options := range [][]byte{
		appendOption(nil, optGo, goBody("disk", infoBlockSize, infoName)),
		appendOption(appendOption(nil, optStructuredReply, nil), optSetMetaContext, metaQuery("disk", contextAllocation, "base:")),
		appendOption(appendOption(nil, optExtendedHeaders, nil), optListMetaContext, metaQuery("disk")),
		appendOption(appendOption(nil, optList, nil), optAbort, nil),
		appendOption(nil, optExportName, []byte("disk")),
		appendOption(nil, optStartTLS, nil),
	} {
		f.Add(append(hello[:4:4], options...))
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, input []byte) { feed(t, s, input) })
}

// FuzzTransmission feeds requests in one of the three forms of replies.
func FuzzTransmission(f *testing.F) {
	for i, mode := range allModes {
		for _, w := range []wireRequest{
			{cmd: cmdRead, length: 4096}, {cmd: cmdWrite, flags: cmdFlagFUA, offset: 512, length: 16},
			{cmd: cmdWriteZeroes, flags: cmdFlagNoHole, length: 1 << 20}, {cmd: cmdBlockStatus, flags: cmdFlagReqOne, length: 1 << 20},
			{cmd: cmdTrim, offset: 1 << 63, length: 1<<32 - 1}, {cmd: cmdDisc}, {cmd: cmdRead, length: 1 << 20},
		} {
			p := make([]byte, extRequestLen)
			p = p[:putRequest(p, mode, w)]
			f.Add(uint8(i), append(append(p, make([]byte, 16)...), p...))
		}
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, mode uint8, input []byte) {
		start := be.AppendUint32(nil, 3)
		switch replyMode(mode % 3) {
		case modeStructured:
			start = appendOption(start, optStructuredReply, nil)
		case modeExtended:
			start = appendOption(start, optExtendedHeaders, nil)
		}
		start = appendOption(start, optSetMetaContext, metaQuery("disk", contextAllocation))
		start = appendOption(start, optGo, goBody("disk"))
		feed(t, s, append(start, input...))
	})
}

// FuzzClientReplies is a hostile server in the transmission phase: the client must
// end every request, and must not panic.
func FuzzClientReplies(f *testing.F) {
	cookie := uint64(1) << 32
	for i, mode := range allModes {
		f.Add(uint8(i), appendError(nil, mode, errnoIO, cookie, 0, "broken"))
		p := make([]byte, mode.readHeaderLen()+512)
		putReadHeader(p, mode, cookie, 0, 512)
		f.Add(uint8(i), p)
		ack := make([]byte, mode.ackLen())
		putAck(ack, mode, cookie|1, 0)
		f.Add(uint8(i), append(append(ack, ack...), p...))
	}
	f.Fuzz(func(t *testing.T, mode uint8, input []byte) {
		client, server := net.Pipe()
		c := &Client{info: exportInfo{
			size: 1 << 20, mode: replyMode(mode % 3), hasStatus: mode%3 != 0, allocation: 1, minBlock: 1, maxPayload: maxPayload,
			flags: flagHasFlags | flagSendFlush | flagSendWriteZeroes | flagSendCache,
		}}
		c.conns = []*clientConn{startClientConn(c, client, 8)}
		go io.Copy(io.Discard, server)
		results := make(chan error, 16)
		go func() {
			buf := make([]byte, 512)
			results <- blockdev.ReadAt(c, buf, 0)
		}()
		go func() { results <- blockdev.WriteAt(c, make([]byte, 512), 0, blockdev.FUA) }()
		go func() { results <- c.Extents(0, 1<<20, func(blockdev.Extent) bool { return true }) }()
		server.SetDeadline(time.Now().Add(20 * time.Second))
		server.Write(input)
		server.Close()
		for range 3 {
			select {
			case <-results:
			case <-time.After(20 * time.Second):
				t.Fatal("a request is never answered")
			}
		}
		c.Close()
	})
}

// FuzzClientHandshake is a hostile server in the option phase.
func FuzzClientHandshake(f *testing.F) {
	hello := be.AppendUint16(be.AppendUint64(be.AppendUint64(nil, magicServer), magicOption), 3)
	info := be.AppendUint16(be.AppendUint64(be.AppendUint16(nil, infoExport), 1<<20), flagHasFlags)
	p := appendOptionReply(hello[:len(hello):len(hello)], optExtendedHeaders, repErrUnsup, nil)
	p = appendOptionReply(p, optStructuredReply, repAck, nil)
	p = appendOptionReply(p, optSetMetaContext, repMetaContext, append(be.AppendUint32(nil, 1), contextAllocation...))
	p = appendOptionReply(p, optSetMetaContext, repAck, nil)
	p = appendOptionReply(p, optGo, repInfo, info)
	f.Add(appendOptionReply(p, optGo, repAck, nil))
	f.Add(hello)
	f.Fuzz(func(t *testing.T, input []byte) {
		client, server := net.Pipe()
		go io.Copy(io.Discard, server)
		go func() {
			server.SetDeadline(time.Now().Add(20 * time.Second))
			server.Write(input)
			server.Close()
		}()
		g := &greeter{nc: client}
		if g.greet() == nil {
			g.choose("disk", &DialOptions{}) // an error is as good: it must not panic or hang
		}
		client.Close()
	})
}

// FuzzURI checks that what parses survives a round trip.
func FuzzURI(f *testing.F) {
	for _, u := range []string{"nbd://h/x", "nbds://[::1]:5/a%20b?tls-hostname=q", "nbd+unix:///?socket=/s", "nbds+unix:///e?socket=s&tls-certificates=/c"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		if again, err := ParseURI(u.String()); err != nil || again != u {
			t.Errorf("%q parses as %+v, which is written %q and parses as %+v, %v", s, u, u.String(), again, err)
		}
	})
}
