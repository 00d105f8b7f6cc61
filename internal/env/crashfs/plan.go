package crashfs

// plan decides what survives.
type plan struct {
	rng
	mode   Mode
	keep   uint64 // of 256: how likely a sector or an operation survives
	cut    uint64 // sequence number of the operation that PrefixKept tears, or of the one
	tear   bool   // OneLost and OneKept: the cut operation is torn, not whole
	perRun uint64 // decides for RandomFiles
}

func (fs *FS) plan(mode Mode, seed uint64) *plan {
	p := &plan{rng: rng(seed), mode: mode}
	p.next() // the draw of ModeOf
	p.keep = [...]uint64{16, 64, 128, 192, 240}[p.below(5)]
	p.tear = p.below(2) == 0
	p.perRun = p.next()
	if mode == PrefixKept || mode == OneLost || mode == OneKept {
		p.cut = fs.pickPending(&p.rng)
	}
	return p
}

// pickPending draws one of the operations that a crash may undo.
func (fs *FS) pickPending(r *rng) uint64 {
	n, picked := uint64(0), uint64(0)
	offer := func(seq uint64) {
		if n++; r.below(n) == 0 {
			picked = seq
		}
	}
	for i := range fs.names {
		offer(fs.names[i].seq)
	}
	for _, f := range fs.files {
		for i := range f.ops {
			if f.ops[i].fate != certain {
				offer(f.ops[i].seq)
			}
		}
	}
	return picked
}

// verdict on one operation.
type verdict uint8

const (
	lost verdict = iota
	kept
	torn
)

// judge decides about the operation seq on the file or directory id.
func (p *plan) judge(seq, id uint64) verdict {
	switch p.mode {
	case AllLost:
		return lost
	case AllKept:
		return kept
	case PrefixKept:
		return p.around(seq, kept, torn, lost)
	case RandomSectors:
		return torn
	case RandomOps:
		return p.flip()
	case RandomFiles:
		r := rng(p.perRun + id)
		return verdict(r.below(2))
	case OneLost:
		if p.tear {
			return p.around(seq, kept, torn, kept)
		}
		return p.around(seq, kept, lost, kept)
	default: // OneKept
		if p.tear {
			return p.around(seq, lost, torn, lost)
		}
		return p.around(seq, lost, kept, lost)
	}
}

func (p *plan) around(seq uint64, before, at, after verdict) verdict {
	switch {
	case seq < p.cut:
		return before
	case seq == p.cut:
		return at
	}
	return after
}

// flip is kept or lost with the probability of the run.
func (p *plan) flip() verdict {
	if p.below(256) < p.keep {
		return kept
	}
	return lost
}

// whole turns torn into kept or lost, for what cannot be torn.
func (p *plan) whole(v verdict) bool {
	if v == torn {
		v = p.flip()
	}
	return v == kept
}

// survivors draws which sectors of a page survive: bit i for sector i.
func (p *plan) survivors(v verdict) uint8 {
	switch v {
	case lost:
		return 0
	case kept:
		return 0xff
	}
	mask, bits := uint8(0), p.next()
	for i := range pageSectors {
		if bits>>(8*i)&0xff < p.keep {
			mask |= 1 << i
		}
	}
	return mask
}

// rng is SplitMix64: small, fast, and the same in every version of Go.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below draws a number in [0, n).
func (r *rng) below(n uint64) uint64 { return r.next() % n }
