package nbd

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"blkd/blockdev"
	"github.com/pojntfx/go-nbd/pkg/protocol"
)

func TestOptions(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	r := rawOptions(t, s)
	cut := func(p []byte) []byte { return p[:len(p)-1] }
	for _, c := range []struct {
		name   string
		option uint32
		data   []byte
		want   uint32
	}{
		{"unknown option", 77, []byte("abc"), repErrUnsup},
		{"peek export", 4, nil, repErrUnsup},
		{"list with data", optList, []byte{0}, repErrInvalid},
		{"TLS that is off", optStartTLS, nil, repErrPolicy},
		{"TLS with data", optStartTLS, []byte{1}, repErrInvalid},
		{"empty info", optInfo, nil, repErrInvalid},
		{"info cut short", optInfo, cut(goBody("disk", infoName)), repErrInvalid},
		{"info too long", optInfo, append(goBody("disk"), 0), repErrInvalid},
		{"info with a huge name length", optInfo, []byte{0xff, 0xff, 0xff, 0xff, 0, 0}, repErrInvalid},
		{"info with too long a name", optInfo, goBody(strings.Repeat("x", maxString+1)), repErrInvalid},
		{"unknown export", optInfo, goBody("nope"), repErrUnknown},
		{"go to an unknown export", optGo, goBody("nope"), repErrUnknown},
		{"structured with data", optStructuredReply, []byte{0}, repErrInvalid},
		{"extended with data", optExtendedHeaders, []byte{0}, repErrInvalid},
		{"metadata before structured", optSetMetaContext, metaQuery("disk", contextAllocation), repErrInvalid},
		{"metadata list before structured", optListMetaContext, metaQuery("disk"), repErrInvalid},
		{"info", optInfo, goBody("disk", infoName, infoDescription, 31, 999), repAck},
		{"list", optList, nil, repAck},
		{"structured", optStructuredReply, nil, repAck},
		{"structured twice", optStructuredReply, nil, repErrInvalid},
		{"metadata of an unknown export", optSetMetaContext, metaQuery("nope", contextAllocation), repErrUnknown},
		{"metadata cut short", optSetMetaContext, cut(metaQuery("disk", contextAllocation)), repErrInvalid},
		{"metadata with too many queries", optSetMetaContext, append(metaQuery("disk")[:8], 0xff, 0xff, 0xff, 0xff), repErrInvalid},
		{"metadata too long", optSetMetaContext, append(metaQuery("disk", "base:"), 1), repErrInvalid},
		{"extended", optExtendedHeaders, nil, repAck},
		{"extended twice", optExtendedHeaders, nil, repErrInvalid},
		{"structured after extended", optStructuredReply, nil, repErrExtHdrReqd},
		{"abort", optAbort, nil, repAck},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			r.refused(c.option, c.data, c.want)
		})
	}
	r.closed()
}

func TestInfoContents(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	r := rawOptions(t, s)
	for _, name := range []string{"disk", ""} { // the only export is the default one
		replies := r.acked(optInfo, goBody(name, infoName, infoDescription))
		got := map[uint16][]byte{}
		for _, rep := range replies[:len(replies)-1] {
			got[be.Uint16(rep.data)] = rep.data[2:]
		}
		want := be.AppendUint16(be.AppendUint64(nil, 1<<20), 0b1101_0110_1101)
		if !bytes.Equal(got[infoExport], want) {
			t.Errorf("export: %x, want %x", got[infoExport], want)
		}
		if want := []byte{0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0}; !bytes.Equal(got[infoBlockSize], want) {
			t.Errorf("block sizes: %x", got[infoBlockSize])
		}
		if string(got[infoName]) != "disk" || string(got[infoDescription]) != "a test disk" {
			t.Errorf("name %q, description %q", got[infoName], got[infoDescription])
		}
	}
	if err := s.SetExport(Export{Name: "two", Device: s.dev, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	r.refused(optInfo, goBody(""), repErrUnknown) // no longer a default
	r.acked(optExtendedHeaders, nil)
	replies := r.acked(optInfo, goBody("two"))
	if flags := be.Uint16(replies[0].data[10:]); flags != 0b1_1101_1110_1111 {
		t.Errorf("flags of a read-only export with extended headers: %#b", flags)
	}
}

func TestExportName(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	for flags, pad := range map[uint32]int{0: 124, clientFixedNewstyle: 124, clientFixedNewstyle | clientNoZeroes: 0} {
		r := rawDial(t, s)
		r.write(be.AppendUint32(nil, flags))
		r.write(appendOption(nil, optExportName, []byte("disk")))
		got := r.read(10 + pad)
		if be.Uint64(got) != 1<<20 || len(bytes.Trim(got[10:], "\x00")) != 0 {
			t.Errorf("EXPORT_NAME answers %x", got)
		}
		r.request(modeSimple, wireRequest{cmd: cmdRead, cookie: 5, length: 512}, nil)
		if a := r.answer(modeSimple, 512); a.errno != 0 || a.cookie != 5 {
			t.Errorf("read after EXPORT_NAME: %+v", a)
		}
	}
	r := rawOptions(t, s)
	r.write(appendOption(nil, optExportName, []byte("nope")))
	r.closed()
}

func TestMetaContext(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	for _, c := range []struct {
		option  uint32
		queries []string
		found   bool
	}{
		{optListMetaContext, nil, true},
		{optListMetaContext, []string{"base:"}, true},
		{optListMetaContext, []string{"qemu:", "base:allocation"}, true},
		{optListMetaContext, []string{"base:other", "x", ""}, false},
		{optSetMetaContext, nil, false},
		{optSetMetaContext, []string{"base:"}, false},
		{optSetMetaContext, []string{""}, false},
		{optSetMetaContext, []string{"base:allocation", "base:allocation"}, true},
	} {
		r := rawOptions(t, s)
		r.acked(optStructuredReply, nil)
		replies := r.acked(c.option, metaQuery("disk", c.queries...))
		if found := len(replies) == 2 && string(replies[0].data[4:]) == contextAllocation; found != c.found {
			t.Errorf("option %d with %q: %v", c.option, c.queries, replies)
		}
		r.acked(optGo, goBody("disk"))
		r.request(modeStructured, wireRequest{cmd: cmdBlockStatus, length: 512}, nil)
		want := uint32(errnoInval)
		if c.option == optSetMetaContext && c.found {
			want = 0
		}
		if a := r.answer(modeStructured, 0); a.errno != want {
			t.Errorf("block status after option %d with %q: %+v", c.option, c.queries, a)
		}
	}
	// A context of one export is not valid for another; a failed SET forgets.
	s.SetExport(Export{Name: "other", Device: s.dev})
	for _, spoil := range []func(r *raw) string{
		func(*raw) string { return "other" },
		func(r *raw) string {
			r.refused(optSetMetaContext, metaQuery("nope", contextAllocation), repErrUnknown)
			return "disk"
		},
	} {
		r := rawOptions(t, s)
		r.acked(optStructuredReply, nil)
		r.acked(optSetMetaContext, metaQuery("disk", contextAllocation))
		r.acked(optGo, goBody(spoil(r)))
		r.request(modeStructured, wireRequest{cmd: cmdBlockStatus, length: 512}, nil)
		if a := r.answer(modeStructured, 0); a.errno != errnoInval {
			t.Errorf("block status without a valid context: %+v", a)
		}
	}
}

func TestHandshakeEnds(t *testing.T) {
	log := newLogs()
	s := startServer(t, Options{MaxOptions: 3, MaxOptionBytes: 1000, Logger: slog.New(slog.NewTextHandler(log, nil))}, blockdev.NewMemory(1<<20))
	for name, c := range map[string]struct {
		send []byte
		log  string
	}{
		"unknown client flags": {be.AppendUint32(nil, 0x80), "unknown client flags 0x80"},
		"bad option magic":     {append(be.AppendUint32(nil, 3), "GET / HTTP/1.1\r\n\r\n"...), "bad option magic"},
		"long option":          {append(be.AppendUint32(nil, 3), appendOption(nil, optGo, make([]byte, 1001))[:16]...), "1001 bytes, limit 1000"},
		"old client":           {append(be.AppendUint32(nil, 0), appendOption(nil, optList, nil)...), "does not speak fixed newstyle"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rawDial(t, s)
			r.write(c.send)
			r.closed()
			log.wait(t, c.log)
		})
	}
	r := rawOptions(t, s)
	for range 3 {
		r.option(optInfo, nil)
	}
	r.closed()
	log.wait(t, "more than 3 options")
}

func TestHandshakeLimits(t *testing.T) {
	t.Parallel()
	s := startServer(t, Options{MaxHandshakes: 2, MaxConnections: 1, HandshakeTimeout: 3 * time.Second}, blockdev.NewMemory(1<<20))
	first, second := rawOptions(t, s), rawOptions(t, s)
	third := rawTransmit(t, s, modeSimple) // pushes the oldest out
	first.closed()
	over := rawOptions(t, s)
	over.write(appendOption(nil, optGo, goBody("disk")))
	for { // one connection too many: GO may be answered, but nothing is served
		if _, err := over.nc.Read(make([]byte, 100)); err != nil {
			break
		}
	}
	second.closed()                    // by the deadline
	time.Sleep(100 * time.Millisecond) // third is older than second was
	third.request(modeSimple, wireRequest{cmd: cmdFlush, cookie: 9}, nil)
	if a := third.answer(modeSimple, 0); a.errno != 0 || a.cookie != 9 {
		t.Errorf("the deadline of the handshake must not end transmission: %+v", a)
	}
}

// TestGoNBDStructs speaks with the wire structs of go-nbd, in the way its client
// does. The client itself wants a kernel device, and sends GO with an option length
// of zero, which no server may take for a name.
func TestGoNBDStructs(t *testing.T) {
	s := startServer(t, Options{}, blockdev.NewMemory(1<<20))
	nc, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	read := func(v any) {
		t.Helper()
		if err := binary.Read(nc, binary.BigEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	write := func(v any) {
		t.Helper()
		if err := binary.Write(nc, binary.BigEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	var greeting protocol.NegotiationNewstyleHeader
	read(&greeting)
	if greeting.OldstyleMagic != protocol.NEGOTIATION_MAGIC_OLDSTYLE || greeting.OptionMagic != protocol.NEGOTIATION_MAGIC_OPTION {
		t.Fatalf("greeting %+v", greeting)
	}
	write(uint32(clientFixedNewstyle))
	write(protocol.NegotiationOptionHeader{OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION, ID: protocol.NEGOTIATION_ID_OPTION_GO, Length: 10})
	write(uint32(4))
	write([]byte("disk"))
	write(uint16(0))
	var reply protocol.NegotiationReplyHeader
	var info protocol.NegotiationReplyInfo
	var blocks protocol.NegotiationReplyBlockSize
	for reply.Type != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		read(&reply)
		switch reply.Length {
		case 12:
			read(&info)
		case 14:
			read(&blocks)
		}
	}
	if info.Size != 1<<20 || info.TransmissionFlags&protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN == 0 || blocks.PreferredBlockSize != 4096 {
		t.Errorf("info %+v, block sizes %+v", info, blocks)
	}
	write(protocol.TransmissionRequestHeader{RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Type: protocol.TRANSMISSION_TYPE_REQUEST_WRITE, Handle: 1, Offset: 512, Length: 4})
	write([]byte("data"))
	write(protocol.TransmissionRequestHeader{RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Type: protocol.TRANSMISSION_TYPE_REQUEST_READ, Handle: 2, Offset: 510, Length: 8})
	for handle := uint64(1); handle <= 2; handle++ {
		var rep protocol.TransmissionReplyHeader
		read(&rep)
		if rep != (protocol.TransmissionReplyHeader{ReplyMagic: protocol.TRANSMISSION_MAGIC_REPLY, Handle: handle}) {
			t.Fatalf("reply %+v", rep)
		}
	}
	data := make([]byte, 8)
	read(data)
	if string(data) != "\x00\x00data\x00\x00" {
		t.Errorf("read %q", data)
	}
	write(protocol.TransmissionRequestHeader{RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Type: protocol.TRANSMISSION_TYPE_REQUEST_DISC})
	(&raw{t, nc}).closed()
}
