package blockdev

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// FaultAction is what a FaultRule does to a request.
type FaultAction uint8

const (
	// FaultDelay serves the request later. Mutations that follow it in the same
	// batch wait with it, so that the order of a batch holds. Rules after this
	// one may do more to the request.
	FaultDelay FaultAction = iota
	// FaultError fails the request with Err and does nothing else.
	FaultError
	// FaultTorn serves the first Sectors sectors, then fails with Err, or never
	// answers before Close if Hang is set.
	FaultTorn
	// FaultBitRot serves a read and flips Bits bits of the data. On the device
	// the data stays intact. Other requests pass.
	FaultBitRot
	// FaultDrop reports success and does nothing: a broken device, to show that
	// a test would notice.
	FaultDrop
	numFaultActions
)

var faultActionNames = [numFaultActions]string{"delay", "error", "torn", "bit-rot", "drop"}

// String is the action's name.
func (a FaultAction) String() string {
	if a < numFaultActions {
		return faultActionNames[a]
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// FaultRule says which requests of a Fault device meet which fault. The zero
// value of a condition is no condition.
type FaultRule struct {
	Ops      []Op  // kinds of request; empty for all
	Off, Len int64 // bytes that the request must touch; Len 0: up to the end. A flush touches all.

	Skip  int     // matching requests that pass first
	Every int     // then only every n-th
	Prob  float64 // and that only with this probability, above 0 to 1
	Times int     // the rule is spent after so many faults

	Action  FaultAction
	Delay   time.Duration // FaultDelay
	Err     error         // FaultError, FaultTorn; nil is ErrIO
	Sectors int64         // FaultTorn: 512-byte sectors served; negative: drawn for each request
	Hang    bool          // FaultTorn
	Bits    int           // FaultBitRot; 0 is 1
}

// Check reports what is wrong with a rule: an ErrInvalid or nil.
func (r *FaultRule) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: fault rule %v: %s", ErrInvalid, r.Action, fmt.Sprintf(format, args...))
	}
	switch {
	case r.Action >= numFaultActions:
		return bad("unknown action")
	case slices.ContainsFunc(r.Ops, func(o Op) bool { return o >= numOps }):
		return bad("unknown operation in %v", r.Ops)
	case r.Off < 0 || r.Len < 0:
		return bad("negative range: %d bytes at %d", r.Len, r.Off)
	case !(r.Prob >= 0 && r.Prob <= 1):
		return bad("probability %v is not between 0 and 1", r.Prob)
	case r.Skip < 0 || r.Every < 0 || r.Times < 0 || r.Bits < 0 || r.Delay < 0:
		return bad("negative skip, every, times, bits or delay")
	case r.Action == FaultDelay && r.Delay == 0:
		return bad("without a delay")
	}
	return nil
}

// Fault is a Device that passes requests to another one, except those that meet
// a rule. Rules may be changed while requests are in flight. For one seed and
// one order of submission the faults are always the same.
type Fault struct {
	dev Device

	mu     sync.Mutex
	rng    *rand.Rand
	rules  []*faultRule
	lastID int
	held   map[*heldSteps]struct{} // delayed and hung
	closed bool
}

type faultRule struct {
	FaultRule
	id, seen, eligible, hits int
}

// faultStep is a request on its way to the wrapped device, or past it if a rule
// left nothing to do.
type faultStep struct {
	*Request
	empty bool
}

// heldSteps wait for a timer or, without one, for Close.
type heldSteps struct {
	steps []faultStep
	timer *time.Timer
}

// NewFault wraps a device, which it then owns; seed decides by chance.
func NewFault(d Device, seed uint64) *Fault {
	return &Fault{dev: d, rng: rand.New(rand.NewPCG(seed, 0)), held: map[*heldSteps]struct{}{}}
}

// AddRule puts a rule after the others and returns its number. The first rule
// that hits a request decides, but for delays.
func (f *Fault) AddRule(r FaultRule) (id int, err error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	r.Ops = slices.Clone(r.Ops)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastID++
	f.rules = append(f.rules, &faultRule{FaultRule: r, id: f.lastID})
	return f.lastID, nil
}

// RemoveRule removes a rule and returns how many requests it hit.
func (f *Fault) RemoveRule(id int) (hits int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = slices.DeleteFunc(f.rules, func(r *faultRule) bool {
		if r.id == id {
			hits = r.hits
		}
		return r.id == id
	})
	return hits
}

// Hits is how many requests a rule has hit, 0 if there is no such rule.
func (f *Fault) Hits(id int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		if r.id == id {
			return r.hits
		}
	}
	return 0
}

// Size is the wrapped device's.
func (f *Fault) Size() int64 { return f.dev.Size() }

// ReadOnly is the wrapped device's.
func (f *Fault) ReadOnly() bool { return f.dev.ReadOnly() }

// Extents are the wrapped device's; no rule applies.
func (f *Fault) Extents(off, n int64, emit func(Extent) bool) error {
	return f.dev.Extents(off, n, emit)
}

// faultVerdict is what happens to one request.
type faultVerdict struct {
	rule    *faultRule // nil: nothing but the delay
	delay   time.Duration
	sectors int64
	rot     []int64 // bits of Data to flip
}

// Submit implements Device.
func (f *Fault) Submit(batch []*Request) {
	var now, late []faultStep // late: with the mutations that wait for them
	var delay time.Duration
	for _, r := range batch {
		if err := r.Check(f.dev.Size(), f.dev.ReadOnly()); err != nil {
			now = append(now, faultStep{Request: r}) // the device says so itself
			continue
		}
		v, closed := f.judge(r)
		if closed {
			r.Finish(ErrClosed)
			continue
		}
		step := f.spoil(r, v)
		switch {
		case r.Op.Mutates() && (v.delay > 0 || len(late) > 0):
			late, delay = append(late, step), max(delay, v.delay)
		case v.delay > 0:
			f.hold([]faultStep{step}, v.delay)
		default:
			now = append(now, step)
		}
	}
	f.pass(now) // first: it may hold mutations from before the late ones
	if len(late) > 0 {
		f.hold(late, delay)
	}
}

// judge finds the rules that hit a request.
func (f *Fault) judge(r *Request) (v faultVerdict, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return v, true
	}
	for _, rule := range f.rules {
		if !rule.matches(r) || !rule.fires(f.rng) {
			continue
		}
		if rule.Action == FaultDelay {
			v.delay += rule.Delay
			continue
		}
		v.rule, v.sectors = rule, rule.Sectors
		if v.sectors < 0 {
			v.sectors = f.rng.Int64N(r.Len/512 + 1)
		}
		if rule.Action == FaultBitRot {
			v.rot = rule.rot(r, f.rng)
		}
		break
	}
	return v, false
}

func (r *faultRule) matches(req *Request) bool {
	switch {
	case len(r.Ops) > 0 && !slices.Contains(r.Ops, req.Op):
		return false
	case r.Action == FaultBitRot && (req.Op != OpRead || req.Len == 0):
		return false
	case req.Op == OpFlush:
		return true
	case r.Len > 0 && req.Off-r.Off >= r.Len:
		return false
	}
	return req.Off+req.Len > r.Off
}

// fires counts a matching request and tells whether it meets the fault.
func (r *faultRule) fires(rng *rand.Rand) bool {
	r.seen++
	if r.seen <= r.Skip || (r.Times > 0 && r.hits >= r.Times) {
		return false
	}
	r.eligible++
	if r.Every > 0 && r.eligible%r.Every != 0 {
		return false
	}
	if r.Prob > 0 && rng.Float64() >= r.Prob {
		return false
	}
	r.hits++
	return true
}

// rot draws bits of a read that lie in the rule's range.
func (r *faultRule) rot(req *Request, rng *rand.Rand) []int64 {
	lo, hi := max(req.Off, r.Off), req.Off+req.Len
	if r.Len > 0 && hi-r.Off > r.Len {
		hi = r.Off + r.Len
	}
	bits := make([]int64, max(1, r.Bits))
	for i := range bits {
		bits[i] = (lo-req.Off)*8 + rng.Int64N((hi-lo)*8)
	}
	return bits
}

// spoil returns the request that does what the verdict says and then answers r.
func (f *Fault) spoil(r *Request, v faultVerdict) faultStep {
	if v.rule == nil {
		return faultStep{Request: r}
	}
	s := &Request{Op: r.Op, Flags: r.Flags, Off: r.Off, Len: r.Len, Data: r.Data}
	err := v.rule.Err
	if err == nil {
		err = ErrIO
	}
	switch v.rule.Action {
	case FaultError:
		s.Len, s.Done = 0, func(*Request) { r.Finish(err) }
	case FaultDrop:
		s.Len, s.Done = 0, func(*Request) { r.Finish(nil) }
	case FaultTorn:
		s.Len = max(0, min(r.Len, (r.Off/512+v.sectors)*512-r.Off))
		s.Done = func(*Request) { r.Finish(err) }
		if v.rule.Hang {
			s.Done = func(*Request) { f.hold([]faultStep{{Request: r}}, 0) }
		}
	case FaultBitRot:
		s.Done = func(*Request) {
			for _, bit := range v.rot {
				r.Data[bit/8] ^= 1 << (bit % 8)
			}
			r.Finish(s.Err)
		}
	}
	if s.Data != nil {
		s.Data = s.Data[:s.Len]
	}
	return faultStep{s, v.rule.Action != FaultBitRot && (s.Len == 0 || s.Op == OpFlush)}
}

// pass submits requests, but answers those that leave nothing to do.
func (f *Fault) pass(steps []faultStep) {
	todo := make([]*Request, 0, len(steps))
	for _, s := range steps {
		if s.empty {
			s.Finish(nil)
		} else {
			todo = append(todo, s.Request)
		}
	}
	if len(todo) > 0 {
		f.dev.Submit(todo)
	}
}

// hold keeps requests for a while, or until Close if delay is 0.
func (f *Fault) hold(steps []faultStep, delay time.Duration) {
	h := &heldSteps{steps: steps}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		h.finish(ErrClosed)
		return
	}
	f.held[h] = struct{}{}
	if delay > 0 {
		h.timer = time.AfterFunc(delay, func() { f.release(h) })
	}
	f.mu.Unlock()
}

// release passes requests on whose time has come, unless Close took them.
func (f *Fault) release(h *heldSteps) {
	f.mu.Lock()
	_, mine := f.held[h]
	delete(f.held, h)
	f.mu.Unlock()
	if mine {
		f.pass(h.steps)
	}
}

func (h *heldSteps) finish(err error) {
	for _, s := range h.steps {
		s.Finish(err)
	}
}

// Close ends delayed and hung requests with ErrClosed and closes the wrapped
// device.
func (f *Fault) Close() error {
	f.mu.Lock()
	f.closed = true
	all := f.held
	f.held = nil
	f.mu.Unlock()
	for h := range all {
		if h.timer != nil {
			h.timer.Stop()
		}
		h.finish(ErrClosed)
	}
	return f.dev.Close()
}
