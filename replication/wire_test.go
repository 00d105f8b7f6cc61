package replication

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"blkd/blockdev"
	"blkd/internal/crc32c"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// pattern is n bytes that depend on v.
func pattern(v byte, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = v + byte(i*7) + byte(i>>8)
	}
	return p
}

// wireSamples are the messages of the golden files of all versions, which must decode
// for ever: a new version adds files, it does not change older ones.
var wireSamples = map[string]*Message{
	"append": {
		Kind: MsgAppend, Lineage: 0x1122334455667788, Gen: 7, From: 0xa1, To: 0xb2, PrevGen: 6, PrevSeq: 99, Commit: 98, Keep: 90, Sync: true, Lease: 5,
		Entries: []blockdev.Entry{
			{Gen: 7, Seq: 100, Kind: blockdev.EntryWrite, Off: 8192, Len: 4096, Data: pattern(1, 4096)},
			{Gen: 7, Seq: 101, Kind: blockdev.EntryZero, Off: 1 << 30, Len: 1 << 40},
			{Gen: 7, Seq: 102, Kind: entryMark},
		},
	},
	"heartbeat": {Kind: MsgAppend, Lineage: 1, Gen: 2, From: 3, To: 4, PrevGen: 5, PrevSeq: 6, Commit: 7, Keep: 8, Lease: 9},
	"ack":       {Kind: MsgAck, Lineage: 1, Gen: 2, From: 3, To: 4, Commit: 10, Lease: 9, Held: 11, Durable: 12, Copy: 13},
	"reject":    {Kind: MsgReject, Lineage: 1, Gen: 2, From: 3, To: 4, Commit: 5, LastGen: 6, LastSeq: 7, Promised: 8},
	"seal":      {Kind: MsgSeal, Lineage: 1, Gen: 2, From: 3, To: 4},
	"sealed":    {Kind: MsgSealed, Lineage: 1, Gen: 2, From: 3, To: 4, Commit: 5, Durable: 6, LastGen: 7, LastSeq: 8, Promised: 9},
	"fetch":     {Kind: MsgFetch, Lineage: 1, Gen: 2, From: 3, To: 4, PrevSeq: 5, LastSeq: 6},
	"fetched":   {Kind: MsgFetched, Lineage: 1, Gen: 2, From: 3, To: 4, PrevSeq: 5, Refused: true},
	"join":      {Kind: MsgJoin, Lineage: 1, Gen: 2, From: 3, To: 4},
	"joined":    {Kind: MsgJoined, Lineage: 1, Gen: 2, From: 3, To: 4, LastGen: 5, LastSeq: 6, Commit: 7, Incomplete: true},
	"reset":     {Kind: MsgReset, Lineage: 1, Gen: 2, From: 3, To: 4, PrevGen: 5, PrevSeq: 6},
	"copy":      {Kind: MsgCopy, Lineage: 1, Gen: 2, From: 3, To: 4, PrevSeq: 5, Copy: 6, Off: 65536, Len: 4608, Data: pattern(2, 4608)},
	"copy-zero": {Kind: MsgCopy, Lineage: 1, Gen: 2, From: 3, To: 4, Copy: 7, Off: 1 << 20, Len: 1 << 20},
	"read":      {Kind: MsgRead, Lineage: 1, Gen: 2, From: 3, To: 4, Commit: 5, Copy: 6, Off: 8192, Len: 4096},
	"block":     {Kind: MsgBlock, Lineage: 1, Gen: 2, From: 3, To: 4, Copy: 6, Off: 8192, Len: 4096, Data: pattern(3, 4096)},
	"digest":    {Kind: MsgDigest, Lineage: 1, Gen: 2, From: 3, To: 4, Commit: 5, Copy: 6, Off: 65536, Len: 65536, Sync: true},
	"digested":  {Kind: MsgDigested, Lineage: 1, Gen: 2, From: 3, To: 4, Copy: 6, Off: 65536, Len: 65536, Lease: 7},
	"prepare": {
		Kind: MsgPrepare, Lineage: 1, Gen: 2, From: 3, To: 4, Commit: 5, Copy: 2<<32 | 6,
		Entries: []blockdev.Entry{
			{Kind: blockdev.EntryWrite, Off: 65536, Len: 4096, Data: pattern(4, 4096)},
			{Kind: blockdev.EntryZero, Off: 131072, Len: 8192},
		},
	},
	"prepared": {Kind: MsgPrepared, Lineage: 1, Gen: 2, From: 3, To: 4, Copy: 2<<32 | 6},
	"release":  {Kind: MsgRelease, Lineage: 1, Gen: 2, From: 3, To: 4, Lease: 5},
}

// wireSamples2 are messages that version 1 has not.
var wireSamples2 = map[string]*Message{
	"append-origins": {
		Kind: MsgAppend, Lineage: 1, Gen: 7, From: 2, To: 3, PrevGen: 7, PrevSeq: 99, Commit: 98,
		Entries: []blockdev.Entry{
			{Gen: 7, Seq: 100, Kind: blockdev.EntryWrite, Off: 8192, Len: 4096, Data: pattern(1, 4096), Origin: blockdev.Origin{Client: 4, Session: 5, Op: 6, More: true}},
			{Gen: 7, Seq: 101, Kind: blockdev.EntryWrite, Off: 12288, Len: 4096, Data: pattern(2, 4096), Origin: blockdev.Origin{Client: 4, Session: 5, Op: 6}},
			{Gen: 7, Seq: 102, Kind: entryMark},
			{Gen: 7, Seq: 103, Kind: blockdev.EntryZero, Off: 1 << 30, Len: 8192, Origin: blockdev.Origin{Client: 7, Session: 8, Op: 9}},
		},
	},
	"read-rows": {Kind: MsgRead, Lineage: 1, Gen: 2, From: 3, To: 4, Commit: 5, Copy: 6,
		Entries: []blockdev.Entry{{Kind: blockdev.EntryZero, Off: 8192, Len: 4096}, {Kind: blockdev.EntryZero, Off: 65536, Len: 8192}}},
	"reset-sessions": {Kind: MsgReset, Lineage: 1, Gen: 2, From: 3, To: 4, PrevGen: 5, PrevSeq: 6, Off: 1 << 30, Len: 8, Data: new(blockdev.Sessions).Append(nil)},
}

// wireGreetings are the first frames of a connection, the same in all versions.
var wireGreetings = map[string][]byte{
	"hello": AppendHello(nil, &Hello{
		Min: 1, Max: 3, Cluster: 0x0102030405060708, Volume: 9, From: "n1", FromIncarnation: 0xa1, To: "node-two", ToIncarnation: 0xb2,
	}),
	"refusal": AppendRefusal(nil, &Refusal{RefusedVolume, "no replica of volume 9 here"}),
}

func TestWireGolden(t *testing.T) {
	files := map[string][]byte{}
	for _, samples := range []map[string]*Message{wireSamples, wireSamples2} {
		for name, m := range samples {
			files["message-"+name] = AppendMessage(nil, m)
		}
	}
	for name, b := range wireGreetings {
		files["greeting-"+name] = b
	}
	for name, b := range files {
		file := filepath.Join("testdata", "wire-v2", name+".hex")
		if *rewrite {
			if err := os.WriteFile(file, []byte(hex.Dump(b)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.Dump(b); got != string(want) {
			t.Errorf("%s: the encoding has changed\n%s", name, got)
		}
	}
}

// goldenFrame reads a golden file back into bytes.
func goldenFrame(t *testing.T, version, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", version, name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for line := range strings.Lines(string(text)) {
		if len(line) < 58 {
			continue // the length, at the end
		}
		part, err := hex.DecodeString(strings.ReplaceAll(line[10:58], " ", ""))
		if err != nil {
			t.Fatalf("%s: %q: %v", name, line, err)
		}
		b = append(b, part...)
	}
	return b
}

func TestWireGoldenDecodes(t *testing.T) {
	d := NewDecoder(MaxFrame)
	decodes := func(version, name string, want *Message) {
		b := goldenFrame(t, version, "message-"+name)
		m, n, err := d.Next(b)
		if err != nil || n != len(b) {
			t.Errorf("%s: %s: %d of %d bytes: %v", version, name, n, len(b), err)
			return
		}
		sameMessage(t, m, want)
	}
	for name, want := range wireSamples {
		decodes("wire-v1", name, want)
		decodes("wire-v2", name, want)
	}
	for name, want := range wireSamples2 {
		decodes("wire-v2", name, want)
	}
	h, _, _, err := DecodeGreeting(goldenFrame(t, "wire-v2", "greeting-hello"))
	want := Hello{Min: 1, Max: 3, Cluster: 0x0102030405060708, Volume: 9, From: "n1", FromIncarnation: 0xa1, To: "node-two", ToIncarnation: 0xb2}
	if err != nil || h == nil || *h != want {
		t.Errorf("hello: %+v, %v", h, err)
	}
	_, r, _, err := DecodeGreeting(goldenFrame(t, "wire-v2", "greeting-refusal"))
	if err != nil || r == nil || r.Code != RefusedVolume || r.Text != "no replica of volume 9 here" {
		t.Errorf("refusal: %+v, %v", r, err)
	}
}

func sameMessage(t *testing.T, got, want *Message) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		g, w := *got, *want
		g.Data, w.Data, g.Entries, w.Entries = nil, nil, nil, nil
		t.Errorf("%s: decoded\n%+v, %d entries, %d bytes\nencoded\n%+v, %d entries, %d bytes",
			want.Kind, g, len(got.Entries), len(got.Data), w, len(want.Entries), len(want.Data))
	}
}

// randomMessage has every field set to anything that may be sent.
func randomMessage(r *rand.Rand) *Message {
	var m Message
	v := reflect.ValueOf(&m).Elem()
	for i := range v.NumField() {
		randomField(v.Field(i), r)
	}
	m.Kind = 1 + Kind(r.UintN(uint(numKinds)-1))
	m.Data, m.Len = randomData(r, m.Len)
	m.Entries = nil
	for range r.IntN(5) {
		e := blockdev.Entry{}
		v := reflect.ValueOf(&e).Elem()
		for i := range v.NumField() {
			randomField(v.Field(i), r)
		}
		if e.Origin.Client == 0 || e.Origin.Op == 0 {
			e.Origin = blockdev.Origin{}
		}
		e.Data, e.Len = randomData(r, e.Len)
		m.Entries = append(m.Entries, e)
	}
	return &m
}

// randomField sets numbers and flags, and fails for a kind of field that the
// protocol does not know.
func randomField(f reflect.Value, r *rand.Rand) {
	switch f.Kind() {
	case reflect.Bool:
		f.SetBool(r.IntN(2) == 0)
	case reflect.Int64:
		f.SetInt(r.Int64() >> r.UintN(64))
	case reflect.Uint8:
		f.SetUint(uint64(r.UintN(256)))
	case reflect.Uint64:
		f.SetUint(r.Uint64() >> r.UintN(64))
	case reflect.Struct:
		for i := range f.NumField() {
			randomField(f.Field(i), r)
		}
	case reflect.Slice: // set by the caller
	default:
		panic("a message has a field of type " + f.Type().String())
	}
}

func randomData(r *rand.Rand, n int64) ([]byte, int64) {
	if r.IntN(2) == 0 {
		return nil, n
	}
	n = 1 + r.Int64N(3*blockdev.BlockSize)
	if r.IntN(2) == 0 {
		n = blockdev.BlockSize * (1 + r.Int64N(20))
	}
	return pattern(byte(r.UintN(256)), int(n)), n
}

func TestWireRoundTrip(t *testing.T) {
	d := NewDecoder(MaxFrame)
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		var sent []*Message
		var stream []byte
		var out outbox
		for range 1 + r.IntN(5) {
			m := randomMessage(r)
			before := len(stream)
			sent, stream = append(sent, m), AppendMessage(stream, m)
			if n := MessageBytes(m); n != len(stream)-before {
				t.Fatalf("seed %d: MessageBytes is %d, the frame has %d", seed, n, len(stream)-before)
			}
			out.add(m)
		}
		if got := slices.Concat(out.pieces(nil)...); !bytes.Equal(got, stream) {
			t.Fatalf("seed %d: an outbox has %d bytes that differ from %d appended", seed, len(got), len(stream))
		}
		out.reset()
		for _, want := range sent {
			m, n, err := d.Next(stream)
			if err != nil || n == 0 {
				t.Fatalf("seed %d: %d %v", seed, n, err)
			}
			sameMessage(t, m, want)
			sameSums(t, d.Sums(), want)
			stream = stream[n:]
		}
		if len(stream) != 0 || t.Failed() {
			t.Fatalf("seed %d: %d bytes are left", seed, len(stream))
		}
	}
}

// sameSums compares what the decoder hands to the store.
func sameSums(t *testing.T, got []uint32, m *Message) {
	t.Helper()
	var want []uint32
	payloads := [][]byte{}
	for _, e := range m.Entries {
		payloads = append(payloads, e.Data)
	}
	for _, p := range append(payloads, m.Data) {
		for block := range slices.Chunk(p, blockdev.BlockSize) {
			want = append(want, crc32c.Checksum(block))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: sums %08x, want %08x", m.Kind, got, want)
	}
}

// TestWireArrivesInPieces: a frame is decoded when its last byte is there, and
// what Want asks for on the way leads there.
func TestWireArrivesInPieces(t *testing.T) {
	b := AppendMessage(nil, wireSamples["append"])
	d := NewDecoder(MaxFrame)
	for n := range len(b) {
		m, used, err := d.Next(b[:n])
		if m != nil || used != 0 || err != nil {
			t.Fatalf("%d of %d bytes: %v, %d, %v", n, len(b), m, used, err)
		}
		want := frameHeader
		if n >= frameHeader {
			want = len(b)
		}
		if d.Want() != want {
			t.Fatalf("%d bytes: wants %d, not %d", n, d.Want(), want)
		}
	}
	for name, b := range wireGreetings {
		for n := range len(b) {
			if h, r, used, err := DecodeGreeting(b[:n]); h != nil || r != nil || used != 0 || err != nil {
				t.Fatalf("%s, %d of %d bytes: %v, %v, %d, %v", name, n, len(b), h, r, used, err)
			}
		}
	}
}

func TestWireDataIsNotCopied(t *testing.T) {
	b := AppendMessage(nil, wireSamples["append"])
	m, _, err := NewDecoder(MaxFrame).Next(b)
	if err != nil {
		t.Fatal(err)
	}
	data := m.Entries[0].Data
	if &data[0] != &b[len(b)-len(data)] {
		t.Error("the data of the entry are not those of the buffer")
	}
	if cap(data) != len(data) {
		t.Error("appending to the data of an entry would change the buffer behind it")
	}
}

// TestWireDamage: no change of a byte, and no flipped bit, makes a message.
func TestWireDamage(t *testing.T) {
	small := *wireSamples["append"]
	small.Entries = slices.Clone(small.Entries)
	small.Entries[0].Len, small.Entries[0].Data = 100, pattern(1, 100)
	small.Off, small.Len, small.Data = 512, 40, pattern(3, 40)
	frames := map[string][]byte{"small": AppendMessage(nil, &small), "two blocks": AppendMessage(nil, wireSamples["copy"])}
	for name, b := range wireGreetings {
		frames[name] = b
	}
	for name, good := range frames {
		decode := func(b []byte) error {
			if wireGreetings[name] != nil {
				_, _, _, err := DecodeGreeting(b)
				return err
			}
			_, _, err := NewDecoder(MaxFrame).Next(b)
			return err
		}
		if err := decode(good); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		bad := slices.Clone(good)
		for i := range bad {
			for change := 1; change < 256; change++ {
				if len(bad) > 1000 && change&(change-1) != 0 {
					continue // one bit at a time is enough for the long one
				}
				bad[i] = good[i] ^ byte(change)
				if err := decode(bad); !errors.Is(err, ErrWire) {
					t.Fatalf("%s: byte %d of %d changed by %#02x: %v", name, i, len(bad), change, err)
				}
			}
			bad[i] = good[i]
		}
	}
}

// TestWireLimit: a length is refused before anything is allocated or waited for.
func TestWireLimit(t *testing.T) {
	b := AppendMessage(nil, wireSamples["append"])
	if _, n, err := NewDecoder(len(b)).Next(b); n != len(b) || err != nil {
		t.Errorf("at the limit: %d, %v", n, err)
	}
	if _, _, err := NewDecoder(len(b) - 1).Next(b[:frameHeader]); !errors.Is(err, ErrWire) {
		t.Errorf("above the limit: %v", err)
	}
}

// reseal makes the checksums of header and fields right again, to get at the
// checks behind them.
func reseal(b []byte) []byte {
	n := int(le.Uint32(b[12:]))
	if n <= len(b)-frameHeader {
		le.PutUint32(b[16:], crc32c.Checksum(b[frameHeader:frameHeader+n]))
	}
	le.PutUint32(b[4:], crc32c.Checksum(b[8:frameHeader]))
	return b
}

func TestWireErrors(t *testing.T) {
	const f, e = frameHeader, frameHeader + messageBytes // fields of the message, of the first entry
	for _, c := range []struct {
		sample, want string
		break_       func(b []byte)
	}{
		{"append", "magic", func(b []byte) { b[0] = 'X' }},
		{"append", "header: CRC-32C", func(b []byte) { b[5]++ }},
		{"append", "4096 bytes of fields in a frame of", func(b []byte) { le.PutUint32(b[12:], 4096); le.PutUint32(b[8:], 4000); reseal(b) }},
		{"append", "kind 0", func(b []byte) { b[20] = 0; reseal(b) }},
		{"append", "kind 21", func(b []byte) { b[20] = byte(numKinds); reseal(b) }},
		{"append", "append of version 3", func(b []byte) { b[21] = 3; reseal(b) }},
		{"append", "reserved", func(b []byte) { b[23] = 1; reseal(b) }},
		{"append", "with 143 bytes of fields", func(b []byte) { le.PutUint32(b[12:], messageBytes-1); reseal(b) }},
		{"append", "append: fields: CRC-32C", func(b []byte) { b[f]++ }},
		{"append", "append: entries: 4294967295", func(b []byte) { le.PutUint32(b[f+140:], 1<<32-1); reseal(b) }},
		{"append", "append: flags: 0x10", func(b []byte) { b[f+136] |= 0x10; reseal(b) }},
		{"append", "append: off: -", func(b []byte) { b[f+120+7] = 0x80; reseal(b) }},
		{"append", "append: len: -", func(b []byte) { b[f+128+7] = 0x80; reseal(b) }},
		{"append", "entry 0: off: -", func(b []byte) { b[e+16+7] = 0x80; reseal(b) }},
		{"append", "entry 0: len: 0", func(b []byte) { le.PutUint64(b[e+24:], 0); reseal(b) }},
		{"append", "entry 0: len: 8192, and 4096 bytes", func(b []byte) { le.PutUint64(b[e+24:], 8192); reseal(b) }},
		{"append", "entry 0: flags: 0x1", func(b []byte) { b[e+32] |= 1; reseal(b) }},
		{"append", "entry 0: kind: 257", func(b []byte) { b[e+37] = 1; reseal(b) }},
		{"append", "entry 0: data: block 0: CRC-32C", func(b []byte) { b[len(b)-1]++ }},
		{"append", "payload: 4096 bytes and 1 checksums are left", func(b []byte) { b[e+32] = 0; reseal(b) }},
		{"append", "a multiple of 4", func(b []byte) { le.PutUint32(b[12:], messageBytes+3*entryBytes+5); reseal(b) }},
		{"append", "checksums: 0 of them for 1", func(b []byte) { le.PutUint32(b[12:], messageBytes+3*entryBytes); reseal(b) }},
		{"copy", "copy: data: block 1: CRC-32C", func(b []byte) { b[len(b)-1]++ }},
		{"append", "entry 0: flags: 0x28", func(b []byte) { b[e+32] |= flagMore; reseal(b) }},
		{"append-origins", "entry 0: flags: 0x38", func(b []byte) { b[21] = 1; reseal(b) }},
		{"append-origins", "entry 0: origin: client 0", func(b []byte) { clear(b[e+4*entryBytes:][:8]); reseal(b) }},
		{"append-origins", "entry 3: origin: 0 bytes", func(b []byte) { le.PutUint32(b[12:], messageBytes+4*entryBytes+2*originBytes); reseal(b) }},
	} {
		m := wireSamples[c.sample]
		if m == nil {
			m = wireSamples2[c.sample]
		}
		b := AppendMessage(nil, m)
		c.break_(b)
		_, n, err := NewDecoder(MaxFrame).Next(b)
		if !errors.Is(err, ErrWire) || n != 0 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want an error with %q, got %d, %v", c.want, n, err)
		}
	}
}

// TestWireRefusesNonsense: mistakes of this program end it instead of reaching a
// peer.
func TestWireRefusesNonsense(t *testing.T) {
	for name, m := range map[string]*Message{
		"data shorter than len": {Kind: MsgCopy, Len: 8192, Data: pattern(1, 4096)},
		"negative offset":       {Kind: MsgCopy, Off: -1},
		"entry":                 {Kind: MsgAppend, Entries: []blockdev.Entry{{Len: 1, Data: pattern(1, 4096)}}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			AppendMessage(nil, m)
		}()
	}
}

// TestOutboxBuffers: short frames share a buffer, and a frame of any length fits.
func TestOutboxBuffers(t *testing.T) {
	long := &Message{Kind: MsgAppend, Entries: []blockdev.Entry{{Len: 1 << 20, Data: pattern(1, 1<<20)}}}
	huge := &Message{Kind: MsgCopy, Len: 5 << 20, Data: pattern(2, 5<<20)}
	var out outbox
	for round := range 2 {
		var want []byte
		for _, m := range []*Message{{Kind: MsgAck}, {Kind: MsgAck}, long, {Kind: MsgAck}, huge, {Kind: MsgAck}} {
			out.add(m)
			want = AppendMessage(want, m)
		}
		if got := out.pieces(nil); len(got) != 4 || !bytes.Equal(slices.Concat(got...), want) {
			t.Fatalf("round %d: %d pieces", round, len(got))
		}
		if out.reset(); !out.empty() {
			t.Fatalf("round %d: not empty after reset", round)
		}
	}
}

func TestWireAllocatesNothing(t *testing.T) {
	m := wireSamples["append"]
	buf := AppendMessage(nil, m)
	d := NewDecoder(MaxFrame)
	var out outbox
	if n := testing.AllocsPerRun(100, func() {
		buf = AppendMessage(buf[:0], m)
		if _, n, err := d.Next(buf); n == 0 || err != nil {
			t.Fatal(n, err)
		}
		out.add(m)
		out.reset()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAgree(t *testing.T) {
	a := Hello{Min: 1, Max: 3, Cluster: 7, Volume: 9, From: "a", FromIncarnation: 11, To: "b", ToIncarnation: 12}
	b := Hello{Min: 2, Max: 4, Cluster: 7, Volume: 9, From: "b", FromIncarnation: 12, To: "a", ToIncarnation: 11}
	for _, c := range []struct {
		code   RefusalCode
		change func(b *Hello)
	}{
		{0, func(b *Hello) {}},
		{0, func(b *Hello) { b.ToIncarnation = 0 }},
		{RefusedVersion, func(b *Hello) { b.Min, b.Max = 4, 5 }},
		{RefusedCluster, func(b *Hello) { b.Cluster++ }},
		{RefusedNode, func(b *Hello) { b.From = "c" }},
		{RefusedNode, func(b *Hello) { b.To = "c" }},
		{RefusedIncarnation, func(b *Hello) { b.FromIncarnation++ }},
		{RefusedIncarnation, func(b *Hello) { b.ToIncarnation++ }},
		{RefusedVolume, func(b *Hello) { b.Volume++ }},
	} {
		peer := b
		c.change(&peer)
		for _, ends := range [][2]*Hello{{&a, &peer}, {&peer, &a}} {
			version, refused := Agree(ends[0], ends[1])
			switch {
			case c.code == 0 && (refused != nil || version != 3):
				t.Errorf("%+v: version %d, %v", peer, version, refused)
			case c.code != 0 && (refused == nil || refused.Code != c.code || refused.Text == "" || version != 0):
				t.Errorf("%+v: %d, %+v, want code %d", peer, version, refused, c.code)
			}
		}
	}
}
