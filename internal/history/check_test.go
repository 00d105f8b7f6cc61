package history_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"blkd/internal/history"
	"blkd/internal/history/reference"
)

func write(value uint64, call, end int64) *history.Operation {
	return &history.Operation{Write: true, Value: value, Call: call, Return: end, Limit: history.Never}
}

func read(value uint64, call, end int64) *history.Operation {
	return &history.Operation{Value: value, Call: call, Return: end, Limit: history.Never}
}

// lost is a write without an answer, of no effect after a limit.
func lost(value uint64, call, limit int64) *history.Operation {
	return &history.Operation{Write: true, Value: value, Call: call, Return: history.Never, Limit: limit}
}

func TestCheck(t *testing.T) {
	const never = history.Never
	for _, c := range []struct {
		name string
		want string // part of the error; empty: there is none
		ops  []*history.Operation
	}{
		{"nothing", "", nil},
		{"initial value", "", []*history.Operation{read(0, 1, 2)}},
		{"read what was written", "", []*history.Operation{write(1, 1, 2), read(1, 3, 4)}},
		{"read while written", "", []*history.Operation{write(1, 1, 9), read(1, 2, 3), read(1, 4, 5)}},
		{"either of two", "", []*history.Operation{write(1, 1, 9), write(2, 2, 8), read(2, 10, 11)}},
		{"never happened", "", []*history.Operation{write(1, 1, 2), lost(2, 3, never), read(1, 4, 5)}},
		{"happened late", "", []*history.Operation{write(1, 1, 2), lost(2, 3, never), read(1, 4, 5), read(2, 6, 7)}},
		{"happened by its limit", "", []*history.Operation{write(1, 1, 2), lost(2, 3, 4), read(2, 5, 6)}},
		{"answered late", "", []*history.Operation{write(1, 1, 2), {Write: true, Value: 2, Call: 3, Return: 9, Limit: 4}, read(2, 5, 6)}},

		{"stale read", "value 1 was there before 2 and after it", []*history.Operation{write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)}},
		{"stale initial value", "after it", []*history.Operation{write(1, 1, 2), read(0, 3, 4)}},
		{"stale after another read", "after it", []*history.Operation{write(1, 1, 2), write(2, 3, 20), read(2, 4, 5), read(1, 6, 7)}},
		{"lost write", "after it", []*history.Operation{write(1, 1, 2), write(2, 3, 4), read(1, 5, 6), read(1, 7, 8)}},
		{"un-read value", "after it", []*history.Operation{write(1, 1, 2), lost(2, 3, never), read(2, 4, 5), read(1, 6, 7)}},
		{"zombie write", "after it", []*history.Operation{write(1, 1, 2), lost(2, 3, 5), read(1, 6, 7), read(2, 8, 9)}},
		{"zombie over a newer one", "after it", []*history.Operation{lost(1, 1, 3), write(2, 4, 5), read(1, 6, 7)}},
		{"its limit was before its answer", "after it", []*history.Operation{write(1, 1, 2), {Write: true, Value: 2, Call: 3, Return: 9, Limit: 4}, read(1, 5, 6), read(2, 7, 8)}},
		{"not written", "which nobody wrote", []*history.Operation{read(7, 1, 2)}},
		{"not written yet", "before that is written", []*history.Operation{read(1, 1, 2), write(1, 3, 4)}},
		{"written twice", "is written twice", []*history.Operation{write(1, 1, 2), write(1, 3, 4)}},
		{"writes what was there", "is written twice", []*history.Operation{write(0, 1, 2)}},
	} {
		err := history.Check(0, c.ops)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v lacks %q", c.name, err, c.want)
		}
		if strings.Contains(c.want, "twice") {
			continue // is not for porcupine to find
		}
		if ok, err := reference.Check(0, c.ops, time.Minute); err != nil || ok != (c.want == "") {
			t.Errorf("%s: porcupine says %v, %v", c.name, ok, err)
		}
	}
}

// random makes the history of a block in which a few answers may be wrong.
// Its times are so few that many are equal.
func random(rng *rand.Rand) []*history.Operation {
	type event struct {
		at int64
		o  *history.Operation
	}
	var ops []*history.Operation
	var events []event
	span := 4 + rng.Int64N(20)
	value := uint64(0)
	for range 1 + rng.IntN(9) {
		o := read(0, rng.Int64N(span), 0)
		o.Return = o.Call + rng.Int64N(1+span/2)
		happens := o.Call + rng.Int64N(o.Return-o.Call+1)
		if rng.IntN(2) == 0 {
			value++
			o.Write, o.Value = true, value
			if rng.IntN(3) == 0 { // it has no answer, or it has one after its limit
				o.Limit = o.Return
				o.Return = history.Never
				if rng.IntN(3) == 0 {
					o.Limit = history.Never
				}
				if rng.IntN(3) == 0 {
					o.Return = happens + rng.Int64N(span)
				}
				if rng.IntN(3) == 0 {
					happens = history.Never
					o.Return = history.Never
				}
			}
		}
		ops = append(ops, o)
		events = append(events, event{happens, o})
	}
	rng.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	now := uint64(0)
	for at := range 3 * span {
		for _, e := range events {
			if e.at == at && e.o.Write {
				now = e.o.Value
			} else if e.at == at {
				e.o.Value = now
			}
		}
	}
	for _, o := range ops {
		switch {
		case rng.IntN(4) > 0:
		case o.Write && o.Return != history.Never:
			o.Return = o.Call + rng.Int64N(o.Return-o.Call+1)
		case !o.Write:
			o.Value = rng.Uint64N(value + 1)
		}
	}
	return ops
}

// TestCheckAgreesWithPorcupine compares verdicts on small histories.
func TestCheckAgreesWithPorcupine(t *testing.T) {
	histories := 20_000
	if testing.Short() {
		histories = 5_000
	}
	right := 0
	for seed := range uint64(histories) {
		ops := random(rand.New(rand.NewPCG(seed, 0)))
		want, err := reference.Check(0, ops, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if want {
			right++
		}
		if err := history.Check(0, ops); (err == nil) != want {
			t.Fatalf("seed %d: porcupine says %v, this one %v; of:\n%v", seed, want, err, ops)
		}
	}
	if right < histories/8 || right > histories*7/8 {
		t.Errorf("%d of %d histories were right: both kinds are needed", right, histories)
	}
}

// concurrent makes a long history of many clients, all of which is true.
func concurrent(blocks int64, operations int, rng *rand.Rand) *history.Recorder {
	r := history.NewRecorder(nil)
	held := map[int64]uint64{}
	var abandoned []*history.Operation
	type open struct {
		o *history.Operation
		// saw is what a read has read.
		saw      uint64
		happened bool
	}
	var under []*open
	value := uint64(0)
	for r.Len() < operations || len(under) > 0 {
		if r.Len() < operations && len(under) < 64 && rng.IntN(2) == 0 {
			block, client := rng.Int64N(blocks), rng.IntN(64)
			if rng.IntN(2) == 0 {
				value++
				under = append(under, &open{o: r.Write(client, block, value)})
			} else {
				under = append(under, &open{o: r.Read(client, block)})
			}
			continue
		}
		if len(under) == 0 {
			continue
		}
		i := rng.IntN(len(under))
		x := under[i]
		switch {
		case !x.happened && x.o.Write && rng.IntN(100) == 0:
			abandoned = append(abandoned, x.o)
		case !x.happened:
			x.happened, x.saw = true, held[x.o.Block]
			if x.o.Write {
				held[x.o.Block] = x.o.Value
			}
			continue
		case x.o.Write && rng.IntN(100) == 0:
			abandoned = append(abandoned, x.o)
		case x.o.Write:
			r.Written(x.o)
		default:
			r.Returned(x.o, x.saw)
		}
		under[i] = under[len(under)-1]
		under = under[:len(under)-1]
		if rng.IntN(1000) == 0 {
			for _, o := range abandoned {
				r.Expire(o)
			}
			abandoned = nil
		}
	}
	return r
}

// TestPlantedViolations adds a few operations to a long history that is true.
func TestPlantedViolations(t *testing.T) {
	for name, c := range map[string]struct {
		holds bool
		do    func(r *history.Recorder)
	}{
		"nothing": {true, func(r *history.Recorder) { put(r, b); get(r, b) }},
		"an unanswered write that is seen": {true, func(r *history.Recorder) {
			put(r, a)
			r.Write(1, 0, b)
			get(r, a)
			get(r, b)
		}},
		"stale read":   {false, func(r *history.Recorder) { put(r, a); put(r, b); get(r, b); get(r, a) }},
		"lost write":   {false, func(r *history.Recorder) { put(r, a); get(r, a); put(r, b); get(r, a) }},
		"wrong value":  {false, func(r *history.Recorder) { put(r, a); get(r, b) }},
		"zombie write": {false, func(r *history.Recorder) { abandon(r, a); put(r, b); get(r, a) }},
		"zombie in the open": {false, func(r *history.Recorder) {
			put(r, a)
			abandon(r, b)
			get(r, a)
			get(r, b)
		}},
		"un-read value": {false, func(r *history.Recorder) {
			put(r, a)
			r.Write(1, 0, b)
			get(r, b)
			get(r, a)
		}},
		"answer of a write that came too late": {false, func(r *history.Recorder) {
			put(r, a)
			o := r.Write(1, 0, b)
			r.Expire(o)
			get(r, a)
			r.Written(o)
			get(r, b)
		}},
	} {
		r := concurrent(4, 20_000, rand.New(rand.NewPCG(1, 0)))
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		c.do(r)
		err := r.Check()
		var v *history.Violation
		if c.holds != (err == nil) || err != nil && (!errors.As(err, &v) || v.Block != 0) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Values that only TestPlantedViolations writes.
const a, b = 1 << 40, 2 << 40

func put(r *history.Recorder, value uint64) { r.Written(r.Write(1, 0, value)) }
func get(r *history.Recorder, value uint64) { r.Returned(r.Read(2, 0), value) }

// abandon begins a write that is not answered and has no effect any more.
func abandon(r *history.Recorder, value uint64) { r.Expire(r.Write(1, 0, value)) }

func TestRecorderTellsOfAFewBlocksOnly(t *testing.T) {
	r := history.NewRecorder(map[int64]uint64{1: 7})
	for block := range int64(5) {
		r.Returned(r.Read(1, block), 7)
	}
	err := r.Check()
	if text := fmt.Sprint(err); !strings.Contains(text, "block 0") || strings.Contains(text, "block 1:") || !strings.Contains(text, "and 1 other blocks") {
		t.Errorf("%v", err)
	}
	if n := r.Len(); n != 5 {
		t.Errorf("%d operations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	ops := concurrent(1, 100_000, rand.New(rand.NewPCG(1, 0))).Block(0)
	for b.Loop() {
		if err := history.Check(0, ops); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ops)), "ns/operation")
}
