package sim

import "blkd/replication"

// event is something that will happen.
type event struct {
	n   *node // nil: at no node
	inc replication.Incarnation
	do  func()
}

// due is when an event will happen, and which of those at one time is first.
type due struct {
	at   instant
	turn uint64
	slot int32 // of the event
}

func (d due) before(x due) bool { return d.at < x.at || d.at == x.at && d.turn < x.turn }

// queue is all that will happen. It is a heap of four children each, without pointers.
type queue struct {
	heap   []due
	events []event // by slot
	free   []int32 // slots
}

// next is when the first event is due; always: there is none.
func (q *queue) next() instant {
	if len(q.heap) == 0 {
		return always
	}
	return q.heap[0].at
}

func (q *queue) push(d due, e event) {
	if n := len(q.free); n > 0 {
		d.slot, q.free = q.free[n-1], q.free[:n-1]
		q.events[d.slot] = e
	} else {
		d.slot = int32(len(q.events))
		q.events = append(q.events, e)
	}
	q.heap = append(q.heap, d)
	i := len(q.heap) - 1
	for i > 0 && d.before(q.heap[(i-1)/4]) {
		q.heap[i] = q.heap[(i-1)/4]
		i = (i - 1) / 4
	}
	q.heap[i] = d
}

// pop takes the first event out, which there is.
func (q *queue) pop() (due, event) {
	first := q.heap[0]
	e := q.events[first.slot]
	q.events[first.slot] = event{}
	q.free = append(q.free, first.slot)
	n := len(q.heap) - 1
	d := q.heap[n]
	q.heap = q.heap[:n]
	for i := 0; n > 0; {
		least := i
		q.heap[i] = d
		for c := 4*i + 1; c < min(4*i+5, n); c++ {
			if q.heap[c].before(q.heap[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		q.heap[i] = q.heap[least]
		i = least
	}
	return first, e
}
