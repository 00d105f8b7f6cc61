package replication

import (
	"bytes"
	"slices"
	"testing"

	"blkd/blockdev"
)

// TestVolumeRepeats: what is sent again is answered and does not act, at the primary
// that did it, and at the next one.
func TestVolumeRepeats(t *testing.T) {
	c := newCell(t, 2, AckAll, 64*blockSize)
	from := blockdev.Origin{Client: 7, Session: 1}
	session := func(node NodeID, from blockdev.Origin) *Session {
		c.primary(t, node)
		_, gen := c.volumes[node].Role()
		return c.volumes[node].Session(gen, 1, from)
	}
	do := func(d *Session, number uint64, op blockdev.Op, flags blockdev.Flags, off, n int64, fill byte) error {
		r := &blockdev.Request{Op: op, Flags: flags, Off: off, Len: n, Number: number}
		if op == blockdev.OpWrite {
			r.Data = bytes.Repeat([]byte{fill}, int(n))
		}
		done := make(chan error, 1)
		r.Done = func(r *blockdev.Request) { done <- r.Err }
		d.Submit([]*blockdev.Request{r})
		return <-done
	}
	holds := func(d *Session, want ...byte) {
		t.Helper()
		got := make([]byte, len(want)*blockSize)
		if err := blockdev.ReadAt(d, got, 0); err != nil {
			t.Fatal(err)
		}
		for i, b := range want {
			if !slices.Equal(got[i*blockSize:(i+1)*blockSize], bytes.Repeat([]byte{b}, blockSize)) {
				t.Errorf("block %d begins with %d, not %d", i, got[i*blockSize], b)
			}
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d, other := session("n1", from), session("n1", blockdev.Origin{Client: 8, Session: 1})
	check(do(d, 1, blockdev.OpWrite, 0, 0, blockSize, 1))
	check(do(d, 2, blockdev.OpTrim, 0, blockSize, blockSize, 0))
	check(do(d, 3, blockdev.OpWriteZeroes, blockdev.FUA, 2*blockSize, blockSize, 0))
	check(do(d, 4, blockdev.OpWrite, blockdev.FUA, 3*blockSize, blockSize, 4))
	check(do(other, 1, blockdev.OpWrite, 0, 0, 4*blockSize, 9))
	repeat := func(d *Session) {
		t.Helper()
		check(do(d, 1, blockdev.OpWrite, 0, 0, blockSize, 1))
		check(do(d, 2, blockdev.OpTrim, 0, blockSize, blockSize, 0))
		check(do(d, 3, blockdev.OpWriteZeroes, blockdev.FUA, 2*blockSize, blockSize, 0))
		check(do(d, 4, blockdev.OpWrite, blockdev.FUA, 3*blockSize, blockSize, 4))
		holds(d, 9, 9, 9, 9)
	}
	repeat(d)
	check(c.volumes["n1"].Handover("n2"))
	d = session("n2", from)
	repeat(d)
	// A number is of its session, and a later one ends the one before.
	check(do(session("n2", blockdev.Origin{Client: 7, Session: 2}), 1, blockdev.OpWrite, 0, 0, blockSize, 5))
	if err := do(d, 5, blockdev.OpWrite, 0, 0, blockSize, 6); err == nil {
		t.Error("an operation of an earlier session acts")
	}
	holds(d, 5, 9)
}

// TestRepeatOfWhatIsUnderWay: an operation that is sent again before it is committed is
// answered with it. One that a log has in part is done from there on.
func TestRepeatOfWhatIsUnderWay(t *testing.T) {
	c := newBenchCore(t, 1)
	var done []*Request
	c.done = func(r *Request) { done = append(done, r) }
	origin := blockdev.Origin{Client: 1, Session: 1, Op: 1}
	write := func(o blockdev.Origin) *Request {
		return &Request{Op: blockdev.OpWrite, Len: 4 * blockSize, Data: make([]byte, 4*blockSize), Origin: o}
	}
	a, b := write(origin), write(origin)
	_, before := c.core.disk.Last()
	c.core.Submit(c.now, []*Request{a})
	c.core.Submit(c.now, []*Request{b})
	c.take()
	if _, last := c.core.disk.Last(); last != before+1 || len(done) != 0 {
		t.Fatalf("%d entries, %d answers", last-before, len(done))
	}
	c.deliver(1 << 30)
	if !slices.Equal(done, []*Request{a, b}) {
		t.Fatalf("answered: %d", len(done))
	}
	origin.Op = 2
	part := origin
	part.More = true
	c.core.p.sessions.Add(part, 1, blockSize)
	r := write(origin)
	c.core.Submit(c.now, []*Request{r})
	if r.Off != blockSize || r.Len != 3*blockSize || len(r.Data) != 3*blockSize {
		t.Errorf("the rest is %d bytes at %d", r.Len, r.Off)
	}
}
