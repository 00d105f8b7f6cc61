package fio

import "math"

// scale maps values to pixels along one axis.
type scale struct {
	lo, hi   float64 // values
	from, to float64 // pixels
	log      bool
}

func (s scale) at(v float64) float64 {
	lo, hi := s.lo, s.hi
	if s.log {
		lo, hi, v = math.Log(lo), math.Log(hi), math.Log(math.Max(v, s.lo))
	}
	if hi == lo {
		return s.from
	}
	return s.from + (v-lo)/(hi-lo)*(s.to-s.from)
}

// linearScale covers 0 to at least hi, ending on a round number.
func linearScale(hi, from, to float64) (scale, []float64) {
	if hi <= 0 {
		hi = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(hi)))
	for _, m := range []float64{0.1, 0.2, 0.25, 0.5, 1, 2} {
		if hi/(step*m) <= 5 {
			step *= m
			break
		}
	}
	var ticks []float64
	for v := 0.0; ; v += step {
		ticks = append(ticks, v)
		if v >= hi {
			return scale{lo: 0, hi: v, from: from, to: to}, ticks
		}
	}
}

// logScale covers lo to hi, both positive, widened to 1, 2 or 5 times a power of ten.
func logScale(lo, hi, from, to float64) (scale, []float64) {
	var all []float64
	for e := math.Floor(math.Log10(lo)); ; e++ {
		for _, m := range []float64{1, 2, 5} {
			all = append(all, m*math.Pow(10, e))
		}
		if all[len(all)-3] > hi*10 {
			break
		}
	}
	first, last := 0, 0
	for i, v := range all {
		if v <= lo*1.0001 {
			first = i
		}
		if v < hi*0.9999 {
			last = i + 1
		}
	}
	ticks := all[first : max(last, first+1)+1]
	s := scale{lo: ticks[0], hi: ticks[len(ticks)-1], from: from, to: to, log: true}
	if len(ticks) <= 7 {
		return s, ticks
	}
	var decades []float64
	for _, v := range ticks {
		if f := math.Log10(v); math.Abs(f-math.Round(f)) < 1e-9 {
			decades = append(decades, v)
		}
	}
	return s, decades
}
