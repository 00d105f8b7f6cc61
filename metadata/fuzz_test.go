package metadata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"blkd/internal/env/crashfs"
	"blkd/metadata/metapb"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// FuzzDecodeState decodes what may be no state. What it takes it gives back.
func FuzzDecodeState(f *testing.F) {
	f.Add([]byte{})
	f.Add(NewState().Encode())
	f.Add(decodable(f).Encode())
	for seed := range uint64(4) {
		f.Add(stateAfter(seed, 60).Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			return
		}
		again, err := DecodeState(s.Encode())
		if err != nil {
			t.Fatalf("a state that was decoded cannot be decoded again: %v", err)
		}
		if !bytes.Equal(s.Encode(), again.Encode()) {
			t.Fatal("decoding and encoding give another state")
		}
	})
}

// stateAfter is what random commands make of an empty state.
func stateAfter(seed uint64, steps int) *State {
	r := newStateRun(seed)
	for range steps {
		r.index++
		r.a.Apply(r.index, r.gen.command())
	}
	return r.a
}

// FuzzApply applies commands that follow each other with their length in front, in
// two bytes, to a state that something has happened in. Whatever they are, each has
// to be answered, and a refusal changes nothing.
func FuzzApply(f *testing.F) {
	f.Add(uint8(0), []byte{})
	for seed := range uint64(8) {
		r := newStateRun(seed)
		var b []byte
		for range 80 {
			c := r.gen.command()
			r.index++
			r.a.Apply(r.index, c)
			if r.index > 70 {
				b = append(b, framed(encode(c))...)
			}
		}
		f.Add(uint8(seed), b)
	}
	f.Fuzz(func(t *testing.T, seed uint8, b []byte) {
		s := stateAfter(uint64(seed%16), 70)
		for index := uint64(1000); len(b) >= 2; index++ {
			n := min(int(binary.LittleEndian.Uint16(b)), len(b)-2)
			c := new(metapb.Command)
			if proto.Unmarshal(b[2:2+n], c) == nil {
				if len(c.Request) < 16 {
					c.Request = requestOf(index)
				}
				applyAny(t, s, index, c)
			}
			b = b[2+n:]
		}
		if _, err := DecodeState(s.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}

func framed(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func applyAny(t *testing.T, s *State, index uint64, c *metapb.Command) {
	before := withoutAnswers(s)
	r := s.Apply(index, c)
	if r == nil || r.Code != metapb.Code_CODE_OK && r.Text == "" {
		t.Fatalf("%v is answered %v", c, r)
	}
	if r.Code != metapb.Code_CODE_OK && !bytes.Equal(before, withoutAnswers(s)) {
		t.Fatalf("%v was refused (%s), but the state has changed", c, r.Text)
	}
}

// logKeys are those of the database, for FuzzLog.
func logKeys() [][]byte {
	return [][]byte{formatKey, identityKey, hardKey, snapshotKey, sizeKey, baseKey,
		entryKey(2), entryKey(4), entryKey(6), partKey(3, 0), []byte("E"), []byte("P"), []byte("x")}
}

// FuzzLog opens a log of which one value is another one: it refuses, or a member
// starts from it and works, or says why not.
func FuzzLog(f *testing.F) {
	hard, _ := proto.Marshal(&raftpb.HardState{Term: new(uint64(1)), Commit: new(uint64(3))})
	entry, _ := proto.Marshal(&raftpb.Entry{Index: new(uint64(4)), Term: new(uint64(1)), Data: []byte{1, 2}})
	f.Add(uint8(2), hard)
	f.Add(uint8(7), entry)
	f.Add(uint8(5), position{2, 1}.encode())
	f.Add(uint8(9), []byte("state"))
	f.Add(uint8(0), []byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, key uint8, value []byte) {
		fs := crashfs.New()
		l, err := openSim(fs)
		if err != nil {
			t.Fatal(err)
		}
		mustDo(t, l.found(&raftpb.ConfState{Voters: []uint64{1}}, stateOf(t, "found_cluster cluster=7 founders=n1").Encode()))
		mustDo(t, appendTo(l, 1, 0, 0, 0, 0, 0))
		commitUpTo(l, 5)
		mustDo(t, l.compact(position{3, 1}, &raftpb.ConfState{Voters: []uint64{1}}, l.mustSnapshot(t), 1))
		keys := logKeys()
		mustDo(t, l.db.Set(keys[int(key)%len(keys)], value, pebble.Sync), l.Close())
		if l, err = openSim(fs); err != nil {
			var e *LogError
			if !errors.As(err, &e) || e.advice() == "" {
				t.Fatalf("a refusal without advice: %v", err)
			}
			return
		}
		defer l.Close()
		runAlone(t, l)
	})
}

func (l *Log) mustSnapshot(t *testing.T) []byte {
	s, err := l.Snapshot()
	mustDo(t, err)
	return s.GetData()
}

// runAlone lets a member work from a log.
func runAlone(t *testing.T, l *Log) {
	core, err := NewCore(CoreConfig{ID: 1, Log: l, Logger: quiet})
	if err != nil {
		return
	}
	for range 30 {
		core.Tick()
		if _, err := core.Process(func([]*raftpb.Message) {}); err != nil {
			if l.Err() == nil {
				t.Fatalf("an error that is not final: %v", err)
			}
			return
		}
	}
}
