package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"blkd/blockdev"
	"blkd/fio"
	"blkd/internal/units"
	"blkd/nbd"
)

// byLoad varies how much is in flight, and in what pieces.
func (b *bench) byLoad(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	one, err := b.singleNode(ctx)
	if err != nil {
		return nil, err
	}
	c, err := b.startCluster(ctx, "curves", 3, "")
	if err != nil {
		return nil, err
	}
	servers := []*server{one}
	for n := 2; n <= 3; n++ {
		m, err := b.volume(ctx, c, mirrorOf(n))
		if err != nil {
			return nil, err
		}
		servers = append(servers, m)
	}
	for _, rw := range []string{"randread", "randwrite"} {
		if err := b.curve(ctx, rw+" 4 KiB by depth", rw+"-4k-qd32", "iodepth", []string{"1", "2", "4", "8", "16", "32", "64", "128", "256"}, fio.EngineFio, nil, servers...); err != nil {
			return nil, err
		}
		if err := b.curve(ctx, rw+" depth 32 by block size", rw+"-4k-qd32", "bs", []string{"512", "4k", "16k", "64k", "256k", "1m", "4m"}, fio.EngineFio, nil, servers...); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// byReplicas varies the number of members, each on a node of its own.
func (b *bench) byReplicas(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	const most = 7
	c, err := b.startCluster(ctx, "replicas", most, "")
	if err != nil {
		return nil, err
	}
	var servers []*server
	for n := 1; n <= most; n++ {
		m, err := b.volume(ctx, c, mirrorOf(n))
		if err != nil {
			return nil, err
		}
		servers = append(servers, m)
	}
	return nil, b.curve(ctx, "randwrite 4 KiB by replicas", "randwrite-4k-qd32", "iodepth", []string{"1", "32"}, fio.EngineFio, nil, servers...)
}

// byVolumes varies over how many volumes of two copies the same load is spread.
func (b *bench) byVolumes(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	const most = 16
	c, err := b.startCluster(ctx, "volumes", 3, "")
	if err != nil {
		return nil, err
	}
	var all, servers []*server
	for n := range most {
		create := mirrorOf(2)
		create.Name = fmt.Sprintf("v%d", n)
		v, err := b.volume(ctx, c, create)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	uris := map[string][]string{}
	for n := 1; n <= most; n *= 2 {
		s := *all[0]
		s.name = fmt.Sprintf("%d-volumes", n)
		s.uri += "&spread=" + strconv.Itoa(n) // tells the targets apart
		for _, v := range all[:n] {
			uris[s.uri] = append(uris[s.uri], v.uri)
		}
		servers = append(servers, &s)
	}
	dial := func(ctx context.Context, uri string) (blockdev.Device, error) { return dialSpread(ctx, uris[uri]) }
	return nil, b.curve(ctx, "randwrite 4 KiB by volumes", "randwrite-4k-qd32", "iodepth", []string{"32", "128"}, fio.EngineBlkd, dial, servers...)
}

// spread is several devices of the same size, one after the other.
type spread struct {
	devices []blockdev.Device
	batches [][]*blockdev.Request
}

func dialSpread(ctx context.Context, uris []string) (blockdev.Device, error) {
	s := &spread{batches: make([][]*blockdev.Request, len(uris))}
	for _, uri := range uris {
		d, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
		if err != nil {
			s.Close()
			return nil, err
		}
		s.devices = append(s.devices, d)
	}
	return s, nil
}

func (s *spread) Size() int64    { return s.devices[0].Size() * int64(len(s.devices)) }
func (s *spread) ReadOnly() bool { return false }

// Submit passes each request to the device where it begins; the load never crosses from
// one to the next, because their size is a multiple of its blocks.
func (s *spread) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		i := int(r.Off / s.devices[0].Size())
		r.Off %= s.devices[0].Size()
		s.batches[i] = append(s.batches[i], r)
	}
	for i, d := range s.devices {
		if len(s.batches[i]) > 0 {
			d.Submit(s.batches[i])
			s.batches[i] = s.batches[i][:0]
		}
	}
}

func (s *spread) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	return blockdev.ErrNotSupported
}

func (s *spread) Close() error {
	var first error
	for _, d := range s.devices {
		if err := d.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// curve measures a job with one option at several values, and shows what changes.
func (b *bench) curve(ctx context.Context, title, job, option string, values []string, e fio.Engine,
	dial func(context.Context, string) (blockdev.Device, error), servers ...*server,
) error {
	base, err := fio.SelectJobs([]string{job})
	if err != nil {
		return err
	}
	cfg := fio.Config{Engines: []fio.Engine{e}, Rounds: min(b.rounds, 3), Runtime: b.runtime, Overwrite: true, Progress: os.Stderr, Dial: dial}
	for _, v := range values {
		cfg.Jobs = append(cfg.Jobs, base[0].With(job+"-"+option+"-"+v, option, v))
	}
	for _, s := range servers {
		cfg.Targets = append(cfg.Targets, s.target())
	}
	rep, err := fio.Run(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Printf("\n== %s: IO/s, p50 µs, CPU µs per I/O\n", title)
	if err := printCurve(os.Stdout, rep, option, values); err != nil {
		return err
	}
	return b.save(rep, title)
}

func printCurve(w io.Writer, rep *fio.Report, option string, values []string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := []string{option}
	for _, t := range rep.Targets {
		head = append(head, t.Name)
	}
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for i, r := range rep.Results {
		row := []string{values[i]}
		for _, t := range r.Targets {
			row = append(row, fmt.Sprintf("%.0f, %.0f, %.1f", t.Summary[fio.IOPS].Median, t.Summary[fio.P50].Median, t.Summary[fio.CPU].Median))
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// bySize shows what the size of a sparse volume costs: memory, and the time to serve
// again after a crash with much in the log.
func (b *bench) bySize(ctx context.Context) ([]verdict, error) {
	fmt.Printf("\n== by size: %d random writes of 4 KiB, flushed, then SIGKILL\n", scattered)
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SIZE\tMEMORY WHEN WRITTEN\tSERVES AGAIN AFTER\tMEMORY THEN")
	for _, size := range []int64{1 << 30, 16 << 30, 256 << 30, 1 << 40, 4 << 40, 16 << 40} {
		if err := b.crashed(ctx, tw, size); err != nil {
			return nil, err
		}
	}
	return nil, tw.Flush()
}

const scattered = 50_000

func (b *bench) crashed(ctx context.Context, w io.Writer, size int64) error {
	defer b.stopAll()
	p, err := b.place("unix")
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "size-"+units.Size(size))
	defer os.RemoveAll(dir)
	start := func() (*server, error) {
		return b.start(ctx, "blkd", p.uri("disk"), b.blkd, "--standalone", "--data-dir", dir,
			"--volume", fmt.Sprintf("disk=%dMiB", size>>20), "--nbd", p.address())
	}
	s, err := start()
	if err != nil {
		return err
	}
	if err := scatter(ctx, s.uri, size); err != nil {
		return err
	}
	before, err := residentKiB(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	s.cmd.Process.Signal(unix.SIGKILL)
	<-s.ended
	begun := time.Now()
	if s, err = start(); err != nil {
		return err
	}
	after := time.Since(begun)
	memory, err := residentKiB(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\t%s\t%v\t%s\n", units.Size(size), units.Size(before<<10), after.Round(time.Millisecond), units.Size(memory<<10))
	return err
}

// scatter writes blocks that lie evenly over an export, in no order, and flushes.
func scatter(ctx context.Context, uri string, size int64) error {
	c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	const block = blockdev.BlockSize
	buf := make([]byte, block)
	for i := range int64(scattered) {
		stir(buf, i<<22)
		if err := blockdev.WriteAt(c, buf, i*7919%scattered*(size/block/scattered)*block, 0); err != nil {
			return err
		}
	}
	return blockdev.Flush(c)
}

// residentKiB is the memory that a process has, in KiB.
func residentKiB(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.ParseInt(strings.Fields(v)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("no VmRSS in /proc/%d/status", pid)
}
