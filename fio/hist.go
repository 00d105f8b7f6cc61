package fio

import (
	"cmp"
	"math/bits"
	"slices"
)

// Histogram counts latencies: upper bound in nanoseconds to number of requests.
type Histogram map[int64]int64

// subBits is the precision of bucketOf: 2^subBits buckets per power of two, an error
// of at most 1/64.
const subBits = 6

// bucketOf rounds a latency up to the bound of its bucket.
func bucketOf(ns int64) int64 {
	shift := bits.Len64(uint64(max(ns, 1))) - 1 - subBits
	if shift <= 0 {
		return max(ns, 1)
	}
	return (ns>>shift + 1) << shift
}

// Add counts one latency.
func (h Histogram) Add(ns int64) { h[bucketOf(ns)]++ }

// Merge adds another histogram's counts.
func (h Histogram) Merge(o Histogram) {
	for ns, n := range o {
		h[ns] += n
	}
}

// Count is the number of requests counted.
func (h Histogram) Count() (n int64) {
	for _, c := range h {
		n += c
	}
	return n
}

// bin is one bucket of a Histogram.
type bin struct{ ns, count int64 }

// sorted returns the buckets by latency.
func (h Histogram) sorted() []bin {
	bins := make([]bin, 0, len(h))
	for ns, n := range h {
		bins = append(bins, bin{ns, n})
	}
	slices.SortFunc(bins, func(a, b bin) int { return cmp.Compare(a.ns, b.ns) })
	return bins
}

// Quantiles returns the latency in nanoseconds below or at which each fraction
// (0 to 1, rising) of the requests lies. An empty histogram gives zeros.
func (h Histogram) Quantiles(fractions ...float64) []int64 {
	out := make([]int64, len(fractions))
	total, seen, i := h.Count(), int64(0), 0
	for _, b := range h.sorted() {
		seen += b.count
		for i < len(fractions) && float64(seen) >= fractions[i]*float64(total) {
			out[i] = b.ns
			i++
		}
	}
	return out
}
