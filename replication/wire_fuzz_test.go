package replication

import (
	"bytes"
	"errors"
	"testing"

	"blkd/blockdev"
	"blkd/internal/crc32c"
)

// repair makes every checksum of a frame right that can be found, so that the
// fuzzer gets at what lies behind them.
func repair(b []byte) []byte {
	if len(b) < frameHeader {
		return b
	}
	le.PutUint32(b, wireMagic)
	b[22], b[23] = 0, 0
	fields, payload := b[frameHeader:], []byte(nil)
	if n := int64(le.Uint32(b[12:])); n <= int64(len(fields)) {
		fields, payload = fields[:n], fields[n:]
	}
	if sums := 4 * blocksOf(len(payload)); len(fields) >= messageBytes+sums {
		putSums(fields[len(fields)-sums:], payload)
	}
	return reseal(b)
}

// FuzzDecode: any bytes are a message with exactly this encoding, or too few
// bytes, or an error, and never more work than the limit allows.
func FuzzDecode(f *testing.F) {
	for name, m := range wireSamples {
		if len(m.Entries) == 0 && len(m.Data) == 0 {
			f.Add(AppendMessage(nil, m), name == "ack")
		}
	}
	f.Add(AppendMessage(nil, &Message{Kind: MsgCopy, Off: 512, Len: 20, Data: pattern(1, 20)}), true)
	f.Add(AppendMessage(nil, &Message{Kind: MsgAppend, Entries: []blockdev.Entry{
		{Gen: 1, Seq: 2, Kind: blockdev.EntryWrite, Len: 16, Data: pattern(1, 16)}, {Gen: 1, Seq: 3, Kind: entryMark},
	}}), true)
	f.Fuzz(func(t *testing.T, b []byte, repaired bool) {
		const limit = 1 << 16
		if repaired {
			b = repair(b)
		}
		d := NewDecoder(limit)
		m, n, err := d.Next(b)
		switch {
		case err != nil:
			if !errors.Is(err, ErrWire) || m != nil || n != 0 {
				t.Errorf("%v, %d, %v", m, n, err)
			}
		case n == 0:
			if d.Want() <= len(b) || d.Want() > limit {
				t.Errorf("wants %d bytes and has %d", d.Want(), len(b))
			}
		default:
			if again := AppendMessage(nil, m); !bytes.Equal(again, b[:n]) {
				t.Errorf("%+v has two encodings", m)
			}
		}
	})
}

// FuzzGreeting: the same for the first frame of a connection, where bytes behind
// the known fields are skipped.
func FuzzGreeting(f *testing.F) {
	for _, b := range wireGreetings {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= frameHeader {
			le.PutUint32(b[16:], crc32c.Checksum(b[frameHeader:]))
			b[21] = greetingVersion
			le.PutUint32(b[12:], uint32(len(b)-frameHeader))
			le.PutUint32(b[8:], uint32(len(b)))
			b = reseal(b)
		}
		h, r, n, err := DecodeGreeting(b)
		var again []byte
		switch {
		case err != nil && !errors.Is(err, ErrWire), err == nil && n != 0 && (h == nil) == (r == nil):
			t.Errorf("%v, %v, %d, %v", h, r, n, err)
		case h != nil:
			again = AppendHello(nil, h)
		case r != nil:
			again = AppendRefusal(nil, r)
		}
		h2, r2, _, err := DecodeGreeting(again)
		if h != nil && (err != nil || *h != *h2) || r != nil && (err != nil || r.Code != r2.Code || len(r.Text) <= maxRefusalText && r.Text != r2.Text) {
			t.Errorf("%+v %+v comes back as %+v %+v, %v", h, r, h2, r2, err)
		}
	})
}
