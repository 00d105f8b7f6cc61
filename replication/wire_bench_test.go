package replication

import (
	"fmt"
	"testing"

	"blkd/blockdev"
)

// batch is an append with n entries of size bytes.
func burst(n, size int) *Message {
	m := &Message{Kind: MsgAppend, Lineage: 1, Gen: 2, From: 3, To: 4, PrevGen: 2, PrevSeq: 5, Commit: 4}
	for i := range n {
		m.Entries = append(m.Entries, blockdev.Entry{
			Gen: 2, Seq: Seq(6 + i), Kind: blockdev.EntryWrite, Off: int64(i * size), Len: int64(size), Data: pattern(byte(i), size),
		})
	}
	return m
}

var benchBatches = []struct{ entries, bytes int }{{0, 0}, {1, 4 << 10}, {32, 4 << 10}, {1, 64 << 10}, {1, 1 << 20}}

func benchWire(b *testing.B, run func(b *testing.B, m *Message)) {
	for _, c := range benchBatches {
		b.Run(fmt.Sprintf("%dx%dK", c.entries, c.bytes>>10), func(b *testing.B) {
			m := burst(c.entries, c.bytes)
			b.SetBytes(int64(MessageBytes(m)))
			b.ReportAllocs()
			run(b, m)
		})
	}
}

func BenchmarkWireAppend(b *testing.B) {
	benchWire(b, func(b *testing.B, m *Message) {
		var buf []byte
		for b.Loop() {
			buf = AppendMessage(buf[:0], m)
		}
	})
}

func BenchmarkWireOutbox(b *testing.B) {
	benchWire(b, func(b *testing.B, m *Message) {
		var out outbox
		for b.Loop() {
			out.add(m)
			out.reset()
		}
	})
}

func BenchmarkWireDecode(b *testing.B) {
	benchWire(b, func(b *testing.B, m *Message) {
		buf, d := AppendMessage(nil, m), NewDecoder(MaxFrame)
		for b.Loop() {
			if _, n, err := d.Next(buf); n == 0 || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}
