package replication

import (
	"fmt"
	"slices"
)

// history is an oracle for one block under strict linearizability: a write that
// was not answered takes effect before a later generation serves, or never. It
// keeps every state that is possible, given what was answered so far.
type history struct {
	states  map[possible]bool
	open    []openWrite
	unknown map[uint64]bool // writes whose end was forgotten
	version int
	reading map[int]map[uint64]bool // values possible since a read began
	begun   map[int]int             // the version they began at
	nextID  int
}

// possible is one value the block may have, and which open writes have happened
// on the way to it.
type possible struct {
	value uint64
	done  [maxOpen]uint64 // tags of open writes that took effect, sorted
}

// maxOpen bounds the writes that a history follows at a time, and with them the
// number of states.
const maxOpen = 4 + maxClosed

// maxClosed bounds those of them that can only have happened by now: of older ones
// nobody knows any more whether they have.
const maxClosed = 2

type openWrite struct {
	tag        uint64
	gen        Generation
	attachment uint64
	closed     bool // it has happened by now, or never will
}

func newHistory() *history {
	return &history{states: map[possible]bool{{}: true}, unknown: map[uint64]bool{}, reading: map[int]map[uint64]bool{}, begun: map[int]int{}}
}

func (p possible) has(tag uint64) bool { return slices.Contains(p.done[:], tag) }

func (p possible) with(tag uint64) possible {
	p.value = tag
	p.done[0] = tag // a zero is there: no more than maxOpen are followed
	slices.Sort(p.done[:])
	return p
}

func (p possible) without(tag uint64) possible {
	for i := range p.done {
		if p.done[i] == tag {
			p.done[i] = 0
		}
	}
	slices.Sort(p.done[:])
	return p
}

// close adds every state that open writes can lead to.
func (h *history) close() {
	var todo []possible
	for p := range h.states {
		todo = append(todo, p)
	}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, w := range h.open {
			if w.closed || p.has(w.tag) {
				continue
			}
			if q := p.with(w.tag); !h.states[q] {
				h.states[q] = true
				todo = append(todo, q)
			}
		}
	}
	h.version++
	for _, seen := range h.reading {
		for p := range h.states {
			seen[p.value] = true
		}
	}
}

// busy tells whether too many writes are open to begin another one.
func (h *history) busy() bool {
	open := 0
	for _, w := range h.open {
		if !w.closed {
			open++
		}
	}
	return open >= 4
}

func (h *history) begin(w openWrite) {
	h.open = append(h.open, w)
	h.close()
}

// reset makes one value the only one that is possible.
func (h *history) reset(value uint64) {
	h.open, h.states = nil, map[possible]bool{{value: value}: true}
	for id := range h.reading {
		h.reading[id] = map[uint64]bool{}
	}
	h.close()
}

// keep drops the states that are not possible any more.
func (h *history) keep(ok func(possible) bool) bool {
	for p := range h.states {
		if !ok(p) {
			delete(h.states, p)
		}
	}
	return len(h.states) > 0
}

// forget takes a write off the open ones: what has happened stays.
func (h *history) forget(tag uint64) {
	h.open = slices.DeleteFunc(h.open, func(w openWrite) bool { return w.tag == tag })
	states := map[possible]bool{}
	for p := range h.states {
		states[p.without(tag)] = true
	}
	h.states = states
}

func (h *history) ack(tag uint64) bool {
	if h.unknown[tag] {
		return true
	}
	ok := h.keep(func(p possible) bool { return p.has(tag) })
	h.forget(tag)
	h.version++
	return ok
}

// expire ends the open writes of generations before g: they have happened, or
// never will.
func (h *history) expire(g Generation) { h.end(func(w openWrite) bool { return w.gen < g }) }

// fence ends those of earlier attachments.
func (h *history) fence(attachment uint64) {
	h.end(func(w openWrite) bool { return w.attachment < attachment })
}

func (h *history) end(over func(openWrite) bool) {
	for i := range h.open {
		h.open[i].closed = h.open[i].closed || over(h.open[i])
	}
	var closed []uint64
	for _, w := range h.open {
		if w.closed {
			closed = append(closed, w.tag)
		}
	}
	for _, tag := range closed[:max(0, len(closed)-maxClosed)] {
		h.unknown[tag] = true
		h.forget(tag)
	}
	h.version++
}

func (h *history) beginRead() int {
	h.nextID++
	seen := map[uint64]bool{}
	for p := range h.states {
		seen[p.value] = true
	}
	h.reading[h.nextID] = seen
	h.begun[h.nextID] = h.version
	return h.nextID
}

func (h *history) endRead(id int) {
	delete(h.reading, id)
	delete(h.begun, id)
}

// read checks a value that was read. If nothing has changed since the read
// began, the block has it now.
func (h *history) read(id int, v uint64) bool {
	seen := h.reading[id]
	delete(h.reading, id)
	if !seen[v] {
		return false
	}
	if h.begun[id] != h.version {
		delete(h.begun, id)
		return true
	}
	delete(h.begun, id)
	ok := h.keep(func(p possible) bool { return p.value == v })
	h.close()
	return ok
}

// String lists the values that are possible.
func (h *history) String() string {
	var values []uint64
	for p := range h.states {
		values = append(values, p.value)
	}
	slices.Sort(values)
	return fmt.Sprint(slices.Compact(values), " open ", h.open)
}
