package blockdev

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestSessionsAgree compares a table with one that keeps everything, of operations
// that are done out of order, in part, again, and not at all.
func TestSessionsAgree(t *testing.T) {
	type key struct{ client, session, op uint64 }
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var table Sessions
		done, ends := map[key]bool{}, map[key]int64{}
		session, top := [4]uint64{}, [4]uint64{}
		window := uint64(1 + rng.IntN(200))
		for seq := range Seq(1000) {
			c := rng.Uint64N(3) + 1
			if rng.IntN(100) == 0 {
				session[c]++
				top[c] = 0
			}
			op := max(top[c]+1, window) - min(rng.Uint64N(window), top[c])
			op = min(op, top[c]+1)
			top[c] = max(top[c], op)
			o := Origin{Client: c, Session: session[c], Op: op, More: rng.IntN(10) == 0}
			end := rng.Int64N(100)
			k := key{c, o.Session, op}
			switch {
			case !o.More:
				done[k] = true
			case !done[k]:
				ends[k] = max(ends[k], end)
			}
			table.Add(o, seq, end)
			if rng.IntN(2) == 0 {
				table.Add(o, seq, end) // again
			}
		}
		decoded, err := DecodeSessions(table.Append(nil))
		if err != nil || !reflect.DeepEqual(decoded.Append(nil), table.Append(nil)) {
			t.Fatalf("seed %d: it is decoded differently: %v", seed, err)
		}
		for c := uint64(1); c <= 3; c++ {
			for op := uint64(1); op <= top[c]; op++ {
				k := key{c, session[c], op}
				want, wantEnd := OpNew, int64(0)
				if end, begun := ends[k]; begun {
					want, wantEnd = OpBegun, end
				}
				if done[k] {
					want, wantEnd = OpDone, 0
				}
				if p, end := decoded.Find(Origin{Client: c, Session: session[c], Op: op}); p != want || end != wantEnd {
					t.Fatalf("seed %d: operation %v is %d up to %d, not %d up to %d", seed, k, p, end, want, wantEnd)
				}
			}
			if p, _ := decoded.Find(Origin{Client: c, Session: session[c] - 1, Op: 1}); session[c] > 0 && p != OpOld {
				t.Fatalf("seed %d: an operation of an earlier session of client %d is %d", seed, c, p)
			}
		}
	}
}

// TestSessionsAreBounded: what a client has the answers of is forgotten, and so are
// clients that are long gone.
func TestSessionsAreBounded(t *testing.T) {
	var table Sessions
	seq := Seq(0)
	add := func(client, op uint64, more bool) {
		seq++
		table.Add(Origin{Client: client, Session: 1, Op: op, More: more}, seq, BlockSize)
	}
	for client := uint64(1); client <= 2*maxClients; client++ {
		for op := uint64(1); op < 5; op++ {
			add(client, op, false)
		}
	}
	if p, _ := table.Find(Origin{Client: maxClients, Session: 1, Op: 1}); len(table.list) != maxClients || p != OpNew {
		t.Errorf("%d clients are known, and the first is %d", len(table.list), p)
	}
	const c = 2 * maxClients
	for op := uint64(5); op < 3*OpWindow; op += 2 { // every other one never comes
		add(c, op, op%3 == 0)
	}
	i, _ := table.find(c)
	if s := &table.list[i]; len(s.done)+len(s.begun) > OpWindow {
		t.Errorf("%d ranges and %d begun are kept", len(s.done), len(s.begun))
	}
	if p, _ := table.Find(Origin{Client: c, Session: 1, Op: 3*OpWindow - 1 - OpWindow}); p != OpOld {
		t.Errorf("an operation behind the window is %d", p)
	}
}

// TestDamagedSessions: one copy of the saved table may rot.
func TestDamagedSessions(t *testing.T) {
	s, o := newReplica(t, StoreOptions{LogBytes: 1 << 20, Manual: true}, pageSpan)
	e := Entry{Gen: 1, Seq: 1, Kind: EntryWrite, Len: BlockSize, Data: make([]byte, BlockSize), Origin: Origin{Client: 4, Session: 5, Op: 6}}
	check(t, s.Append([]Entry{e}), s.Commit(1), s.Close())
	rot := func(off int64) {
		f, err := o.FS.Open(o.Dir+"/"+sessionsFile, 2)
		check(t, err)
		_, err = f.WriteAt([]byte{0xff}, off)
		check(t, err, f.Close())
	}
	for _, off := range []int64{sessionsSlot + 20, sessionsSlot + 1} {
		rot(off)
		s, err := OpenStore(o)
		if err != nil {
			t.Fatal(err)
		}
		if p, _ := s.Sessions(1).Find(e.Origin); p != OpDone {
			t.Errorf("the operation is %d", p)
		}
		check(t, s.Close())
	}
	rot(sessionsSlot + sessionsCopy + 20)
	if s, err := OpenStore(o); err == nil {
		s.Close()
		t.Error("a store opens without its sessions")
	}
}

func BenchmarkSessionsAdd(b *testing.B) {
	var table Sessions
	b.ReportAllocs()
	for i := range b.N {
		o := Origin{Client: uint64(i%4 + 1), Session: 1, Op: uint64(i/4 + 1)}
		table.Find(o)
		table.Add(o, Seq(i), 0)
	}
}
