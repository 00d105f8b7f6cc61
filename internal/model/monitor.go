package model

// monitor judges what clients of one block are told, with at most three writes: it is
// the set of what may be the case, of pairs (writes that have taken effect, value); bit
// 4*writes+value. Value 0 was there at first, write w makes the value w. Empty: what
// clients were told cannot be.
type monitor uint32

const monitorStart monitor = 1

// closure adds what is the case when open writes take effect: those in invoked, which
// has bit w-1 for write w.
func (m monitor) closure(invoked uint8) monitor {
	for {
		n := m
		for idx := uint(0); idx < 32; idx++ {
			if n&(1<<idx) == 0 {
				continue
			}
			lin := idx >> 2
			for w := uint(1); w <= 3; w++ {
				if invoked&(1<<(w-1)) != 0 && lin&(1<<(w-1)) == 0 {
					n |= 1 << ((lin|1<<(w-1))<<2 | w)
				}
			}
		}
		if n == m {
			return m
		}
		m = n
	}
}

// acked keeps what has write w in it.
func (m monitor) acked(w uint8, invoked uint8) monitor {
	var o monitor
	for idx := uint(0); idx < 32; idx++ {
		if m&(1<<idx) != 0 && (idx>>2)&(1<<(w-1)) != 0 {
			o |= 1 << idx
		}
	}
	return o.closure(invoked)
}

// read keeps what has the value v.
func (m monitor) read(v uint8, invoked uint8) monitor {
	var o monitor
	for idx := uint(0); idx < 32; idx++ {
		if m&(1<<idx) != 0 && uint8(idx&3) == v {
			o |= 1 << idx
		}
	}
	return o.closure(invoked)
}

// monitorAt begins anew with what a log has made of the block; open writes that are
// not in it may take effect still.
func monitorAt(l logbook, open uint8) monitor {
	var in uint8
	for n := 1; n <= l.len(); n++ {
		if v := l.at(n) & 3; v != 0 {
			in |= 1 << (v - 1)
		}
	}
	return monitor(1 << (in<<2 | l.value())).closure(open)
}
