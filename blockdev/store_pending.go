package blockdev

// pendingQueue holds the entries of a replica's log that wait for Commit, oldest
// first. Both of its rings are used over and over, so that an entry on its way
// through costs no allocation. Guarded by Store.mu.
type pendingQueue struct {
	ring  []pendingEntry // as many as a power of two
	first uint64         // number of the oldest entry; modulo the ring's length its place
	n     int
	sums  []uint32 // the checksums of all of them; one entry's lie together
	end   uint64   // where the next ones go; modulo the length the place
}

// pendingEntry is an entry in the log that is not yet committed.
type pendingEntry struct {
	record
	sums uint64
}

// pendingKept bounds the memory of an empty queue, in entries.
const pendingKept = 1 << 14

func (q *pendingQueue) slot(i int) *pendingEntry {
	return &q.ring[(q.first+uint64(i))&uint64(len(q.ring)-1)]
}

// at is the i-th entry and the checksums of its blocks, valid until the queue
// changes.
func (q *pendingQueue) at(i int) (*record, []uint32) {
	e := q.slot(i)
	return &e.record, q.sumsOf(e)
}

func (q *pendingQueue) sumsOf(e *pendingEntry) []uint32 {
	n := e.crcs()
	if n == 0 {
		return nil
	}
	at := int(e.sums % uint64(len(q.sums)))
	return q.sums[at : at+n : at+n]
}

// push appends an entry.
func (q *pendingQueue) push(r *record, crc []uint32) {
	if q.n == len(q.ring) {
		q.grow(max(64, 2*len(q.ring)), len(q.sums))
	}
	at, ok := q.room(len(crc))
	if !ok {
		q.grow(len(q.ring), max(1024, 2*len(q.sums), 2*len(crc)))
		at, _ = q.room(len(crc))
	}
	if len(crc) > 0 {
		copy(q.sums[at%uint64(len(q.sums)):], crc)
	}
	q.end = at + uint64(len(crc))
	q.n++
	*q.slot(q.n - 1) = pendingEntry{*r, at}
}

// room finds the place of n checksums, which do not wrap.
func (q *pendingQueue) room(n int) (at uint64, ok bool) {
	size, at := uint64(len(q.sums)), q.end
	if n == 0 {
		return at, true
	}
	if size == 0 {
		return 0, false
	}
	if left := size - at%size; uint64(n) > left {
		at += left
	}
	oldest := at
	if q.n > 0 {
		oldest = q.slot(0).sums
	}
	return at, at+uint64(n)-oldest <= size
}

// grow moves everything to larger rings.
func (q *pendingQueue) grow(entries, sums int) {
	old := *q
	*q = pendingQueue{ring: make([]pendingEntry, entries), sums: make([]uint32, sums)}
	for i := range old.n {
		r, crc := old.at(i)
		copy(q.sums[q.end:], crc)
		q.ring[i] = pendingEntry{*r, q.end}
		q.end += uint64(len(crc))
	}
	q.n = old.n
}

// pop forgets the oldest entry.
func (q *pendingQueue) pop() {
	q.first++
	q.n--
	if q.n == 0 && len(q.ring) > pendingKept {
		*q = pendingQueue{}
	}
}

// cut forgets all but the first n entries.
func (q *pendingQueue) cut(n int) {
	if n < q.n {
		q.end = q.slot(n).sums
		q.n = n
	}
}

// until is how many entries lie at seq or before it; seqs are contiguous.
func (q *pendingQueue) until(seq Seq) int {
	if q.n == 0 || seq < q.slot(0).seq {
		return 0
	}
	return int(min(uint64(q.n), uint64(seq-q.slot(0).seq)+1))
}
