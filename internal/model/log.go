package model

import "slices"

// Log is a log of any length: where each generation's entries begin. That is all there
// is to know of it, for the same place and generation is the same entry after the same
// log everywhere (I11). A copy of it stays as it is.
type Log struct {
	runs []run
	last uint64
}

// run are entries of one generation, up to the next run.
type run struct{ gen, first uint64 }

// Add appends entry seq, which follows the last one.
func (l *Log) Add(gen, seq uint64) {
	if n := len(l.runs); n == 0 || l.runs[n-1].gen != gen {
		l.runs = append(slices.Clip(l.runs), run{gen, seq})
	}
	l.last = seq
}

// End is the last entry; (0, 0): there is none.
func (l *Log) End() (gen, seq uint64) { return l.gen(l.last), l.last }

// gen is the generation of an entry; 0: there is none at seq.
func (l *Log) gen(seq uint64) uint64 {
	if seq > l.last || seq == 0 {
		return 0
	}
	for n := len(l.runs) - 1; n >= 0; n-- {
		if l.runs[n].first <= seq {
			return l.runs[n].gen
		}
	}
	return 0
}

// first is the log up to an entry.
func (l Log) first(seq uint64) Log {
	if seq >= l.last {
		return l
	}
	n := len(l.runs)
	for n > 0 && l.runs[n-1].first > seq {
		n--
	}
	return Log{l.runs[:n:n], seq}
}

// common is how many entries two logs begin with alike: up to where they first differ
// in a generation.
func (l *Log) common(o *Log) uint64 {
	end := min(l.last, o.last)
	if l.gen(end) == o.gen(end) {
		return end
	}
	for i := range l.runs {
		if i == len(o.runs) || l.runs[i] != o.runs[i] {
			at := l.runs[i].first
			if i < len(o.runs) {
				at = min(at, o.runs[i].first)
			}
			return min(end, at-1)
		}
	}
	return min(end, o.runs[len(l.runs)].first-1)
}

// beats tells whether a log is better than another: by generation, then by length.
func (l *Log) beats(o *Log) bool {
	a, b := l.gen(l.last), o.gen(o.last)
	return a > b || a == b && l.last > o.last
}
