package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"blkd/fio"
)

// verdict is one target and what was measured.
type verdict struct {
	number  int    // in the list of targets
	what    string // "disk, tcp: randread-4k-qd32, IO/s, blkd / nbdkit"
	got     fio.Summary
	want    float64
	atMost  bool // the ratio has to be at most want, not at least
	missing bool // not measured
}

func (v verdict) holds() bool {
	if v.atMost {
		return v.got.Median <= v.want
	}
	return v.got.Median >= v.want
}

// compare makes a verdict from the ratio of two servers in one job.
func compare(rep *fio.Report, number int, where, job string, e fio.Engine, m fio.Metric, name, over string, atMost bool, want float64) verdict {
	v := verdict{number: number, want: want, atMost: atMost, missing: true}
	v.what = fmt.Sprintf("%s: %s, %s, %s / %s", where, job, short[m], name, over)
	if r := rep.Find(job, e); r != nil {
		if s, ok := r.Ratio(m, name, over); ok {
			v.got, v.missing = s, false
		}
	}
	return v
}

var short = map[fio.Metric]string{fio.IOPS: "IO/s", fio.CPU: "CPU per I/O", fio.P50: "p50", fio.MBps: "MB/s", fio.WriteAmp: "bytes written per byte"}

const (
	atLeast = false
	atMost  = true
)

func memoryVerdicts(tcp, unix *fio.Report) []verdict {
	var v []verdict
	for _, rw := range []string{"randread", "randwrite"} {
		job := rw + "-4k-qd32"
		v = append(v,
			compare(unix, 1, "memory, unix, batching client", job, fio.EngineBlkd, fio.IOPS, "blkd", "nbdkit", atLeast, 3),
			compare(tcp, 1, "memory, tcp, fio", job, fio.EngineFio, fio.IOPS, "blkd", "nbdkit", atLeast, 1),
			compare(tcp, 1, "memory, tcp, fio", job, fio.EngineFio, fio.IOPS, "blkd", "qemu-nbd", atLeast, 1.5),
			compare(tcp, 1, "memory, tcp, fio", job, fio.EngineFio, fio.CPU, "blkd", "nbdkit", atMost, 0.75),
			compare(tcp, 1, "memory, tcp, fio", rw+"-4k-qd1", fio.EngineFio, fio.P50, "blkd", "nbdkit", atMost, 0.8),
			compare(unix, 1, "memory, unix, batching client", rw+"-4k-qd1", fio.EngineBlkd, fio.P50, "blkd", "nbdkit", atMost, 0.8),
		)
	}
	return v
}

func diskVerdicts(random, seq *fio.Report, transport string) []verdict {
	where := "disk, " + transport
	var v []verdict
	for _, job := range random4k {
		for _, peer := range []string{"nbdkit", "qemu-nbd", "nbd-server"} {
			v = append(v, compare(random, 2, where, job, fio.EngineFio, fio.IOPS, "blkd", peer, atLeast, 1))
		}
		v = append(v, compare(random, 2, where, job, fio.EngineFio, fio.CPU, "blkd", "nbdkit", atMost, 1))
	}
	for _, job := range sequential1m {
		for _, peer := range []string{"nbdkit", "qemu-nbd", "nbd-server"} {
			v = append(v, compare(seq, 2, where, job, fio.EngineFio, fio.MBps, "blkd", peer, atLeast, 1))
		}
		if job != "seqread-1m-qd8" { // from memory: no socket is as fast as a copy
			v = append(v, compare(seq, 2, where, job, fio.EngineFio, fio.MBps, "blkd", "raw file", atLeast, 0.9))
		}
	}
	return append(v, figure(seq, 6, where, "seqwrite-1m-qd8", fio.WriteAmp, "blkd", 1.1))
}

// figure makes a verdict from what one server needs in one job, which is to be little.
func figure(rep *fio.Report, number int, where, job string, m fio.Metric, name string, want float64) verdict {
	v := verdict{number: number, want: want, atMost: true, missing: true}
	v.what = fmt.Sprintf("%s: %s, %s, %s", where, job, short[m], name)
	if r := rep.Find(job, fio.EngineFio); r != nil {
		if s, ok := r.Target(name).Summary[m]; ok {
			v.got, v.missing = s, false
		}
	}
	return v
}

func mirrorVerdicts(rep *fio.Report) []verdict {
	const where = "mirror"
	over := func(job string, m fio.Metric, name string, most bool, want float64) verdict {
		return compare(rep, 3, where, job, fio.EngineFio, m, name, "1-node", most, want)
	}
	v := []verdict{
		over("randwrite-4k-qd1", fio.P50, "2-copies", atMost, 2.2),
		over("randwrite-4k-qd32", fio.IOPS, "2-copies", atLeast, 0.5),
		figure(rep, 3, where, "randwrite-4k-qd32", fio.CPU, "2-copies", 30),
		figure(rep, 3, where, "randwrite-4k-qd32", fio.CPU, "3-copies", 42),
	}
	for _, name := range []string{"2-copies", "3-copies"} {
		for _, job := range []string{"randread-4k-qd1", "randread-4k-qd32"} {
			v = append(v, over(job, fio.IOPS, name, atLeast, 0.9))
		}
	}
	seq := compare(rep, 6, where, "seqwrite-1m-qd8", fio.EngineFio, fio.MBps, "2-copies", "1-node", atLeast, 0.45)
	return append(v, seq,
		figure(rep, 6, where, "seqwrite-1m-qd8", fio.WriteAmp, "2-copies", 2*1.1),
		figure(rep, 6, where, "seqwrite-1m-qd8", fio.WriteAmp, "3-copies", 3*1.1))
}

// flushJob is the load of a database's commits.
const flushJob = "fsync1-4k-qd1-j32"

func durableVerdicts(flushing *fio.Report) []verdict {
	return []verdict{
		compare(flushing, 4, "durable", flushJob, fio.EngineFio, fio.IOPS, "2-copies-durable", "raw file", atLeast, 1),
		compare(flushing, 4, "durable", flushJob, fio.EngineFio, fio.IOPS, "2-copies", "raw file", atLeast, 1),
		compare(flushing, 4, "durable", flushJob, fio.EngineFio, fio.IOPS, "1-node", "raw file", atLeast, 1),
	}
}

func cephVerdicts(rep *fio.Report) []verdict {
	over := func(job, name string, want float64) verdict {
		return compare(rep, 3, "beside Ceph RBD", job, fio.EngineFio, fio.IOPS, name, "ceph 2 copies", atLeast, want)
	}
	v := []verdict{over("randwrite-4k-qd32", "2-copies", 15), over("randwrite-4k-qd32", "2-copies-durable", 1.5)}
	v[1].number = 4
	return v
}

func tlsVerdicts(rep *fio.Report) []verdict {
	var v []verdict
	for _, job := range []string{"randread-4k-qd32", "randwrite-4k-qd32"} {
		v = append(v, compare(rep, 7, "TLS on / off, batching client", job, fio.EngineBlkd, fio.IOPS, "TLS", "plain", atLeast, 0.5))
	}
	return v
}

func checksumVerdicts(rep *fio.Report) []verdict {
	var v []verdict
	for _, r := range rep.Results {
		v = append(v, compare(rep, 7, "checksums on / off", r.Job, fio.EngineFio, fio.IOPS, "checksums", "none", atLeast, 0.95))
	}
	return v
}

// printVerdicts writes one line per target.
func printVerdicts(w io.Writer, all []verdict) error {
	fmt.Fprintf(w, "\n== targets (ratio of the same rounds: median, and smallest to largest)\n")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "TARGET\tWHAT\tWANT\tGOT\tROUNDS\t")
	held, measured := 0, 0
	for _, v := range all {
		want := fmt.Sprintf("≥ %.2f", v.want)
		if v.atMost {
			want = fmt.Sprintf("≤ %.2f", v.want)
		}
		if v.missing {
			fmt.Fprintf(tw, "%d\t%s\t%s\tnot measured\t\t\n", v.number, v.what, want)
			continue
		}
		measured++
		word := "MISSED"
		if v.holds() {
			held++
			word = "holds"
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%.2f\t%.2f–%.2f\t%s\n", v.number, v.what, want, v.got.Median, v.got.Min, v.got.Max, word)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d hold\n", held, measured)
	return err
}
