package fio

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want Summary
	}{
		{nil, Summary{}},
		{[]float64{3}, Summary{3, 3, 3, 1}},
		{[]float64{9, 1, 5}, Summary{5, 1, 9, 3}},
		{[]float64{4, 1, 2, 100}, Summary{3, 1, 100, 4}},
	} {
		if got := summarize(c.in); got != c.want {
			t.Errorf("summarize(%v) = %+v, want %+v", c.in, got, c.want)
		}
	}
	in := []float64{2, 1}
	summarize(in)
	if in[0] != 2 {
		t.Error("summarize sorted its argument")
	}
}

func TestRatiosPairRounds(t *testing.T) {
	sample := func(v float64) Sample { return Sample{Figures: Figures{IOPS: v}} }
	a := []Sample{sample(10), sample(40), {Figures: Figures{}}}
	b := []Sample{sample(5), sample(10), sample(1)}
	if got := ratios(a, b, IOPS); !slices.Equal(got, []float64{2, 4}) {
		t.Errorf("got %v, want [2 4]: runs of the same round, where both have the figure", got)
	}
	if got := ratios([]Sample{sample(1)}, []Sample{sample(0)}, IOPS); len(got) != 0 {
		t.Errorf("got %v from a division by zero", got)
	}
}

func TestQuantilesAreWithinABucket(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	h := Histogram{}
	var all []int64
	for range 20000 {
		ns := int64(rng.ExpFloat64() * 100e3)
		h.Add(ns)
		all = append(all, ns)
	}
	slices.Sort(all)
	fractions := []float64{0.5, 0.9, 0.99, 0.999, 1}
	for i, q := range h.Quantiles(fractions...) {
		exact := all[max(int(fractions[i]*float64(len(all)))-1, 0)]
		if q < exact || float64(q) > float64(exact)*(1+1.0/32)+1 {
			t.Errorf("quantile %v is %d, exactly %d", fractions[i], q, exact)
		}
	}
	if got := (Histogram{}).Quantiles(0.5); got[0] != 0 {
		t.Errorf("an empty histogram's median is %d", got[0])
	}
}
