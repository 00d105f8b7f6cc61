package node

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"blkd/nbd"
)

var (
	connectionsDesc = describe("nbd_connections", "NBD connections that use the volume.", "volume")
	acceptedDesc    = describe("nbd_accepted_connections_total", "NBD connections accepted since the start, with and without a volume.")
	refusedDesc     = describe("nbd_refused_connections_total", "NBD connections ended because they broke the protocol or a limit.")
	bufferDesc      = describe("nbd_buffer_bytes", "Memory held by NBD requests and replies, beyond basic buffers.")
	requestsDesc    = describe("nbd_requests_total", "NBD requests.", "volume", "op")
	bytesDesc       = describe("nbd_request_bytes_total", "Lengths of NBD requests, added up.", "volume", "op")
	errorsDesc      = describe("nbd_request_errors_total", "NBD requests answered with an error.", "volume", "op")
	durationDesc    = describe("nbd_request_duration_seconds", "Time from request to reply, of one request in 64; the sum is estimated from the buckets.", "volume", "op")

	nbdDescs = []*prometheus.Desc{connectionsDesc, acceptedDesc, refusedDesc, bufferDesc, requestsDesc, bytesDesc, errorsDesc, durationDesc}
)

func collectNBD(st nbd.Stats, out chan<- prometheus.Metric) {
	number := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	number(acceptedDesc, prometheus.CounterValue, float64(st.Accepted))
	number(refusedDesc, prometheus.CounterValue, float64(st.Refused))
	number(bufferDesc, prometheus.GaugeValue, float64(st.BufferBytes))
	for _, e := range st.Exports {
		number(connectionsDesc, prometheus.GaugeValue, float64(e.Connections), e.Name)
		for _, op := range e.Ops {
			number(requestsDesc, prometheus.CounterValue, float64(op.Requests), e.Name, op.Op)
			number(bytesDesc, prometheus.CounterValue, float64(op.Bytes), e.Name, op.Op)
			number(errorsDesc, prometheus.CounterValue, float64(op.Errors), e.Name, op.Op)
			count, sum, buckets := cumulate(op.Latency)
			if count > 0 { // many series; only for what happens
				out <- prometheus.MustNewConstHistogram(durationDesc, count, sum, buckets, e.Name, op.Op)
			}
		}
	}
}

// The buckets that are shown: 2^10 ns (1 µs), then each four times the one
// before, to 2^30 ns (1.07 s).
const firstBucket, lastBucket, bucketStep = 10, 30, 2

// cumulate turns counts by powers of two of nanoseconds into Prometheus' running
// counts by seconds. The sum takes each bucket at three quarters of its bound.
func cumulate(latency []uint64) (count uint64, sum float64, buckets map[float64]uint64) {
	buckets = map[float64]uint64{}
	for i, n := range latency {
		bound := math.Ldexp(1e-9, i)
		count += n
		sum += 0.75 * bound * float64(n)
		if i >= firstBucket && i <= lastBucket && (i-firstBucket)%bucketStep == 0 {
			buckets[bound] = count
		}
	}
	return count, sum, buckets
}
