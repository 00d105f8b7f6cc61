package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
)

func message(index uint64, size int) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgApp.Enum(), Index: &index, Entries: []*raftpb.Entry{{Data: make([]byte, size)}}}
}

// Messages come out as they went in, however large they are.
func TestBatches(t *testing.T) {
	var in []*raftpb.Message
	for i, size := range []int{0, 10, batchBytes / 2, batchBytes / 2, batchBytes, 3*batchBytes + 7, 1, 2 * batchBytes, 0} {
		in = append(in, message(uint64(i), size))
	}
	var u unpacker
	var out []*raftpb.Message
	largest := 0
	err := pack(&api.Route{To: 7}, in, func(b *api.RaftBatch) error {
		largest = max(largest, proto.Size(b))
		if b.Route.GetTo() != 7 {
			t.Error("a batch without a route")
		}
		messages, err := u.unpack(b)
		out = append(out, messages...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(in, out, func(a, b *raftpb.Message) bool { return proto.Equal(a, b) }) {
		t.Errorf("%d messages became %d", len(in), len(out))
	}
	if largest > 2*batchBytes {
		t.Errorf("a batch has %d bytes", largest)
	}
	failed := errors.New("the stream is broken")
	if err := pack(&api.Route{}, in, func(*api.RaftBatch) error { return failed }); err != failed {
		t.Errorf("an error became %v", err)
	}
}

// A sender that never ends a message does not fill the memory.
func TestUnpackEndless(t *testing.T) {
	u := unpacker{part: make([]byte, messageBytes-1)}
	if _, err := u.unpack(&api.RaftBatch{Messages: [][]byte{{1, 2}}, More: true}); err == nil {
		t.Error("a message of any size is taken")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\x08\x03"), true, []byte("x"), false)
	f.Fuzz(func(t *testing.T, a []byte, moreA bool, b []byte, moreB bool) {
		var u unpacker
		for _, batch := range []*api.RaftBatch{{Messages: [][]byte{a, b}, More: moreA}, {Messages: [][]byte{b}, More: moreB}} {
			if _, err := u.unpack(batch); err != nil {
				return
			}
		}
	})
}

// An outbox that nobody empties drops the oldest messages, and keeps the newest.
func TestOutbox(t *testing.T) {
	o := newOutbox()
	for i := range uint64(outboxMessages + 10) {
		o.push(message(i, 0))
	}
	got := o.take()
	if len(got) != outboxMessages || got[0].GetIndex() != 10 || o.dropped != 10 {
		t.Errorf("%d messages from %d on, %d dropped", len(got), got[0].GetIndex(), o.dropped)
	}
	for i := range uint64(3) {
		o.push(message(i, outboxBytes/2))
	}
	if got := o.take(); len(got) != 1 || got[0].GetIndex() != 2 {
		t.Errorf("%d messages of half the size that fits", len(got))
	}
	o.push(message(9, 2*outboxBytes))
	if got := o.take(); len(got) != 1 {
		t.Error("a message that is larger than the outbox never gets out")
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{least: 10 * time.Millisecond, most: 100 * time.Millisecond}
	for _, want := range []time.Duration{10, 20, 40, 80, 100, 100} {
		if got := b.next(); got < want*time.Millisecond/2 || got > want*time.Millisecond {
			t.Errorf("a pause of %v, not of %v ms at most and half of it at least", got, int64(want))
		}
	}
	b.reset()
	if got := b.next(); got > 10*time.Millisecond {
		t.Errorf("a pause of %v after the first failure", got)
	}
}

// The slowest sync of the last second counts, and one under way by its age.
func TestSyncTimes(t *testing.T) {
	var s syncTimes
	now := time.Duration(0)
	clock := func() time.Duration { return now }
	sync := func(took time.Duration) {
		s.measure(clock, func() error { now += took; return nil }) //nolint:errcheck // its own nil
	}
	expect := func(want time.Duration) {
		t.Helper()
		if got := s.late(now); got != want {
			t.Errorf("at %v: late by %v, not %v", now, got, want)
		}
	}
	expect(0)
	sync(300 * time.Millisecond)
	sync(100 * time.Millisecond)
	sync(200 * time.Millisecond)
	expect(300 * time.Millisecond)
	now += 750 * time.Millisecond
	expect(200 * time.Millisecond)
	now += 2 * time.Second
	expect(0)
	failed := errors.New("disk")
	err := s.measure(clock, func() error {
		now += 3 * time.Second
		expect(3 * time.Second)
		return failed
	})
	if err != failed {
		t.Errorf("an error became %v", err)
	}
}

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		entries []string
		text    string // of the error; empty: none
	}{
		{[]string{"n1=h1:7400"}, ""},
		{[]string{"n1=h1:7400", "n2=h2:7400", "n3=[::1]:7400"}, ""},
		{[]string{"n1=h1:7400", "n2=h2:7400"}, "add a third, which may be a witness"},
		{[]string{"n1"}, "write NAME=HOST:PORT"},
		{[]string{"N1=h1:7400"}, "node name"},
		{[]string{"n1=:7400"}, "names no host"},
		{[]string{"n1=h1"}, "write HOST:PORT"},
		{[]string{"n1=h1:none-such"}, "write HOST:PORT"},
		{[]string{"n1=h1:1", "n1=h2:1", "n2=h3:1"}, "n1 is in both"},
		{[]string{"n1=h1:1", "n2=h1:1", "n3=h3:1"}, "h1:1 is in both"},
	} {
		list, err := ParseList(c.entries)
		if c.text == "" {
			if err != nil || len(list) != len(c.entries) {
				t.Errorf("%v: %v, %v", c.entries, list, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: %v", c.entries, err)
		}
	}
}
