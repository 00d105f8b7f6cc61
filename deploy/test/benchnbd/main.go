// Command benchnbd measures blkd beside qemu-nbd and nbdkit, and clusters of it beside one
// node, on the same file system and with the same durability, and says which of the
// project's targets hold.
//
// Scenarios:
//
//	disk       blkd, nbdkit file, qemu-nbd (writeback), nbd-server and the raw file, under fio,
//	           over TCP and over Unix sockets. All acknowledge a write from memory and
//	           make it durable on flush. The disks are filled with random data first.
//	memory     the NBD edge alone: package nbd over a memory device, nbdkit memory, and
//	           qemu-nbd on a tmpfs file; under fio over TCP, and under the batching
//	           client over a Unix socket.
//	tls        blkd with and without TLS, under the batching client over TCP.
//	checksums  blkd with and without checksums.
//	mirror     one node, and volumes of one, two and three copies on three nodes.
//	durable    the raw file, one node and two copies under 32 writers that flush; two
//	           copies with durability flush and write.
//	cluster-tls  two copies with and without TLS between the nodes.
//	erasure    mirrors of two and three copies, and volumes of 2+1 and 4+2, on six nodes;
//	           then 2+1 with and without one of its nodes.
//
// Only if asked for:
//
//	ceph       two copies, with durability flush and write, and two copies of Ceph RBD
//	           behind qemu-nbd, which Debian's packages bring up on this machine.
//
// How one node and mirrors scale, only if asked for too:
//
//	by-load      with depth and block size
//	by-replicas  with the number of replicas, each on a node of its own
//	by-volumes   with the number of volumes that share the load
//	by-size      of a sparse volume: memory, and the time to serve again after a crash
//
// Every process that it starts is ended by its id, on errors and signals too.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"blkd/blockdev"
	"blkd/deploy/test/clustertest"
	"blkd/fio"
	"blkd/nbd"
)

// bench is the configuration and the state of a run.
type bench struct {
	blkd, memserver string        // programs
	dir             string        // where the disks lie, for this run only
	out             string        // where the pages and the JSON go; empty: nowhere
	size            int64         // bytes per disk
	rounds          int           // runs of each job against each server
	runtime         time.Duration // of a run
	transports      []string      // tcp, unix

	servers  []*server              // running
	daemons  []int                  // process ids of servers that have no parent
	clusters []*clustertest.Cluster // running
	ports    int                    // handed out
}

func main() {
	// Servers are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	var b bench
	flag.StringVar(&b.blkd, "blkd", "", "blkd `program`")
	flag.StringVar(&b.memserver, "memserver", "", "memserver `program`")
	dir := flag.String("dir", "", "`directory` on the file system to measure (default: the temporary one)")
	flag.StringVar(&b.out, "out", "", "`directory` for pages with plots and JSON (default: none are written)")
	sizeMiB := flag.Int64("size", 1024, "size of each disk in MiB; all of them must fit into memory several times")
	flag.IntVar(&b.rounds, "rounds", fio.DefaultRounds, "runs of each job against each server")
	flag.DurationVar(&b.runtime, "runtime", 2*time.Second, "length of a run")
	only := flag.String("only", "disk,memory,tls,checksums,mirror,durable,cluster-tls,erasure", "scenarios")
	with := flag.String("with", "", "scenarios to run after them")
	transports := flag.String("transports", "tcp,unix", "transports of the disk scenario")
	flag.Parse()
	b.size = *sizeMiB << 20
	b.transports = strings.Split(*transports, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	names := strings.Split(*only, ",")
	if *with != "" {
		names = append(names, strings.Split(*with, ",")...)
	}
	if err := b.run(ctx, *dir, names); err != nil {
		fmt.Fprintln(os.Stderr, "benchnbd:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, dir string, only []string) error {
	if err := b.check(); err != nil {
		return err
	}
	var err error
	if b.dir, err = os.MkdirTemp(dir, "benchnbd-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.stopAll()
	scenarios := map[string]func(context.Context) ([]verdict, error){
		"disk": b.disk, "memory": b.memory, "tls": b.tls, "checksums": b.checksums,
		"mirror": b.mirror, "durable": b.durable, "cluster-tls": b.clusterTLS, "erasure": b.erasure, "ceph": b.ceph,
		"by-load": b.byLoad, "by-replicas": b.byReplicas, "by-volumes": b.byVolumes, "by-size": b.bySize,
	}
	var verdicts []verdict
	for _, name := range only {
		scenario := scenarios[name]
		if scenario == nil {
			return fmt.Errorf("-only %s: the scenarios are %s", name, strings.Join(slices.Sorted(maps.Keys(scenarios)), ", "))
		}
		v, err := scenario(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		verdicts = append(verdicts, v...)
	}
	if len(verdicts) == 0 {
		return nil
	}
	return printVerdicts(os.Stdout, verdicts)
}

// measure runs jobs against servers and shows the result. The first server is the one
// that the others are compared with in the table. What reaches the disk under the path
// disk is counted; empty: nothing is.
func (b *bench) measure(ctx context.Context, title string, e fio.Engine, disk string, jobs []string, servers ...*server) (*fio.Report, error) {
	cfg := fio.Config{
		Engines: []fio.Engine{e}, Rounds: b.rounds, Runtime: b.runtime, Overwrite: true, Progress: os.Stderr, Disk: disk,
		Dial: func(ctx context.Context, uri string) (blockdev.Device, error) {
			return nbd.Dial(ctx, uri, nbd.DialOptions{})
		},
		Prepare: func(j fio.Job, _ fio.Target) error {
			if j.Name == coldRead {
				return b.forget()
			}
			return nil
		},
	}
	var err error
	if cfg.Jobs, err = fio.SelectJobs(jobs); err != nil {
		return nil, err
	}
	for _, s := range servers {
		cfg.Targets = append(cfg.Targets, s.target())
	}
	rep, err := fio.Run(ctx, cfg)
	if err != nil {
		return nil, err
	}
	fmt.Printf("\n== %s\n", title)
	if err := rep.Table(os.Stdout); err != nil {
		return nil, err
	}
	return rep, b.save(rep, title)
}

// save writes a report's page and JSON.
func (b *bench) save(rep *fio.Report, title string) error {
	if b.out == "" {
		return nil
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	name := filepath.Join(b.out, "bench-"+strings.NewReplacer(" ", "-", ",", "").Replace(title))
	for ext, write := range map[string]func(*os.File) error{
		".html": func(f *os.File) error { return rep.HTML(f) },
		".json": func(f *os.File) error { return rep.JSON(f) },
	} {
		f, err := os.Create(name + ext)
		if err != nil {
			return err
		}
		if err := write(f); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	fmt.Printf("plots: %s.html\n", name)
	return nil
}
