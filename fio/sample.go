package fio

import "time"

// Sample is what one run of one job against one target gave.
type Sample struct {
	Round   int     `json:"round"` // from 1
	Figures Figures `json:"figures"`

	Latency Histogram `json:"-"` // of the flushes for a job that flushes as it goes
	Series  []Point   `json:"-"` // throughput over time

	ios   int64 // reads and writes done
	wrote int64 // bytes written by the client
}

// Point is the rate at one moment of a run.
type Point struct {
	At   time.Duration // since the start of the run
	IOPS float64
}

// fill computes the figures that follow from counts, bytes, the time they took and the
// latencies.
func (s *Sample) fill(bytes int64, took time.Duration) {
	s.Figures = Figures{}
	if took > 0 {
		s.Figures[IOPS] = float64(s.ios) / took.Seconds()
		s.Figures[MBps] = float64(bytes) / 1e6 / took.Seconds()
	}
	if s.Latency.Count() > 0 {
		q := s.Latency.Quantiles(0.50, 0.99, 0.999)
		s.Figures[P50] = float64(q[0]) / 1e3
		s.Figures[P99] = float64(q[1]) / 1e3
		s.Figures[P999] = float64(q[2]) / 1e3
	}
}

// charge adds the figures that come from the server's processes and its disk.
func (s *Sample) charge(before, after usage) {
	if s.ios > 0 && after.known {
		s.Figures[CPU] = float64((after.cpu - before.cpu).Microseconds()) / float64(s.ios)
	}
	if s.wrote > 0 && after.known && after.hasIO && before.hasIO {
		s.Figures[WriteAmp] = float64(after.wrote-before.wrote) / float64(s.wrote)
	}
	if s.wrote > 0 && after.hasDisk {
		s.Figures[DiskAmp] = float64(after.disk-before.disk) / float64(s.wrote)
	}
}
