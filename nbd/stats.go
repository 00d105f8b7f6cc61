package nbd

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	numCommands = 8 // cmdRead to cmdBlockStatus; DISC's place counts unknown ones
	latBuckets  = 32
	// latSample is the share of requests whose latency is measured: one in so
	// many. Reading the clock for each would cost more than 1 %.
	latSample = 64
)

var commandNames = [numCommands]string{"read", "write", "invalid", "flush", "trim", "cache", "write-zeroes", "block-status"}

// statIndex is where a command is counted.
func statIndex(cmd uint16) int {
	if cmd >= numCommands {
		return int(cmdDisc)
	}
	return int(cmd)
}

// opCount counts the requests of one command.
type opCount struct{ requests, bytes, errors atomic.Uint64 }

// opCounters has one opCount per command. Each connection has its own, so that
// counting never contends.
type opCounters [numCommands]opCount

func (o *opCounters) add(other *opCounters) {
	for i := range o {
		o[i].requests.Add(other[i].requests.Load())
		o[i].bytes.Add(other[i].bytes.Load())
		o[i].errors.Add(other[i].errors.Load())
	}
}

// histogram counts latencies in powers of two of nanoseconds.
type histogram [latBuckets]atomic.Uint64

func (h *histogram) record(d time.Duration) {
	h[min(bits.Len64(uint64(max(d, 0))), latBuckets-1)].Add(1)
}

// Stats is a snapshot of a server's counters since it was made.
type Stats struct {
	Connections int   // that have chosen an export
	Handshakes  int   // that have not yet
	Accepted    int64 // connections ever
	Refused     int64 // connections ended for breaking the protocol or a limit
	BufferBytes int64 // held by requests and replies, beyond basic buffers
	Exports     []ExportStats
}

// ExportStats are the counters of one export.
type ExportStats struct {
	Name        string
	Connections int   // now
	Accepted    int64 // ever
	Ops         []OpStats
}

// OpStats are the counters of one command of one export.
type OpStats struct {
	Op       string // "read", "write", "flush", "trim", "cache", "write-zeroes", "block-status", "invalid"
	Requests uint64
	Bytes    uint64 // the requests' lengths
	Errors   uint64 // answered with an error
	// Latency counts a sample (one in 64) of requests by the time from parsing
	// to the reply: bucket i holds those below 2^i ns, the last one all others.
	Latency []uint64
}

// stats is a snapshot of the export's counters.
func (e *exportState) stats() ExportStats {
	var sum opCounters
	e.mu.Lock()
	sum.add(&e.total)
	for c := range e.open {
		sum.add(&c.count)
	}
	s := ExportStats{Name: e.Name, Connections: len(e.open), Accepted: e.conns.Load()}
	e.mu.Unlock()
	for i := range sum {
		op := OpStats{Op: commandNames[i], Requests: sum[i].requests.Load(), Bytes: sum[i].bytes.Load(), Errors: sum[i].errors.Load()}
		op.Latency = make([]uint64, latBuckets)
		for b := range op.Latency {
			op.Latency[b] = e.lat[i][b].Load()
		}
		s.Ops = append(s.Ops, op)
	}
	return s
}
