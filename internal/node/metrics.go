package node

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/version"
)

// collector reads the stores' and the NBD server's counters when Prometheus
// asks; the data path pays nothing for it.
type collector struct{ node *Node }

// storeMetric is a number of a store.
type storeMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*blockdev.StoreStats) float64
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("blk_"+name, help, labels, nil)
}

func gauge(name, help string, value func(*blockdev.StoreStats) float64) storeMetric {
	return storeMetric{describe(name, help, "volume"), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(*blockdev.StoreStats) int64) storeMetric {
	return storeMetric{describe(name, help, "volume"), prometheus.CounterValue,
		func(s *blockdev.StoreStats) float64 { return float64(value(s)) }}
}

var storeMetrics = []storeMetric{
	gauge("volume_size_bytes", "Size of the volume.", func(s *blockdev.StoreStats) float64 { return float64(s.SizeBytes) }),
	gauge("volume_allocated_bytes", "Space that the volume's data takes in its image.", func(s *blockdev.StoreStats) float64 { return float64(s.AllocatedBytes) }),
	gauge("volume_memory_bytes", "Estimate of the memory that the volume's store holds.", func(s *blockdev.StoreStats) float64 { return float64(s.MemoryBytes) }),
	gauge("log_size_bytes", "Size of the volume's log.", func(s *blockdev.StoreStats) float64 { return float64(s.LogSizeBytes) }),
	gauge("log_used_bytes", "Part of the log that is not yet poured into the image.", func(s *blockdev.StoreStats) float64 { return float64(s.LogUsedBytes) }),
	gauge("write_amplification_ratio", "Bytes written to files per byte written by clients, since the volume was opened.", (*blockdev.StoreStats).WriteAmplification),
	counter("volume_reads_total", "Reads by clients.", func(s *blockdev.StoreStats) int64 { return s.Reads }),
	counter("volume_read_bytes_total", "Bytes read by clients.", func(s *blockdev.StoreStats) int64 { return s.ReadBytes }),
	counter("volume_writes_total", "Writes, trims and zeroings by clients.", func(s *blockdev.StoreStats) int64 { return s.Writes }),
	counter("volume_written_bytes_total", "Bytes written by clients.", func(s *blockdev.StoreStats) int64 { return s.WriteBytes }),
	counter("volume_flushes_total", "Flushes and forced-unit-access writes by clients.", func(s *blockdev.StoreStats) int64 { return s.Flushes }),
	counter("syncs_total", "Rounds of fdatasync that answered flushes.", func(s *blockdev.StoreStats) int64 { return s.Syncs }),
	counter("log_writes_total", "System calls that appended to the log.", func(s *blockdev.StoreStats) int64 { return s.LogWrites }),
	counter("log_written_bytes_total", "Bytes appended to the log, with headers and padding.", func(s *blockdev.StoreStats) int64 { return s.LogBytes }),
	counter("log_stalls_total", "Times that a writer waited for space in the log.", func(s *blockdev.StoreStats) int64 { return s.LogStalls }),
	counter("image_written_bytes_total", "Bytes written to the image.", func(s *blockdev.StoreStats) int64 { return s.ImageBytes }),
	counter("metadata_written_bytes_total", "Bytes written by checkpoints.", func(s *blockdev.StoreStats) int64 { return s.MetaBytes }),
	counter("checkpoints_total", "Checkpoints of the image.", func(s *blockdev.StoreStats) int64 { return s.Checkpoints }),
	counter("bad_blocks_total", "Blocks read whose checksum did not match.", func(s *blockdev.StoreStats) int64 { return s.BadBlocks }),
}

var (
	buildDesc = describe("build_info", "Build that is running; always 1.", "version", "revision")
	stateDesc = describe("volume_state", "1 for the state that the volume is in, else 0.", "volume", "state")
	diskSize  = describe("disk_size_bytes", "Size of the file system that holds the data directory.")
	diskFree  = describe("disk_free_bytes", "Free space on the file system that holds the data directory.")

	volumeStates = []api.VolumeState{api.VolumeState_VOLUME_STATE_OK, api.VolumeState_VOLUME_STATE_DEGRADED, api.VolumeState_VOLUME_STATE_FAILED}
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range storeMetrics {
		out <- m.desc
	}
	for _, d := range []*prometheus.Desc{buildDesc, stateDesc, diskSize, diskFree} {
		out <- d
	}
	for _, d := range slices.Concat(nbdDescs, quorumDescs) {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	build := version.Get()
	set(buildDesc, 1, build.Version, build.Revision)
	disk := c.node.lookAtDisk()
	set(diskSize, float64(disk.size))
	set(diskFree, float64(disk.free))
	for _, v := range c.node.describeAll() {
		for _, s := range volumeStates {
			is := 0.0
			if s == v.State {
				is = 1
			}
			set(stateDesc, is, v.Name, s.Word())
		}
	}
	for _, v := range c.node.list() {
		if store := v.opened(); store != nil {
			st := store.Stats()
			for _, m := range storeMetrics {
				out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&st), v.name)
			}
		}
	}
	if c.node.nbd != nil { // a witness has none
		collectNBD(c.node.nbd.Stats(), out)
	}
	if c.node.member != nil {
		collectQuorum(c.node.member, out)
	}
}
