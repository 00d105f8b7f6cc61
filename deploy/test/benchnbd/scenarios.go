package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"blkd/blockdev"
	"blkd/fio"
	"blkd/nbd"
)

// coldRead is the job before which the page cache forgets the disks.
const coldRead = "seqread-1m-once"

// The jobs of the targets.
var (
	random4k = []string{
		"randread-4k-qd1", "randread-4k-qd32", "randread-4k-qd128",
		"randwrite-4k-qd1", "randwrite-4k-qd32", "randwrite-4k-qd128",
	}
	sequential1m = []string{coldRead, "seqread-1m-qd8", "seqwrite-1m-qd8"}
)

// disk compares servers that keep their data on the same file system.
func (b *bench) disk(ctx context.Context) ([]verdict, error) {
	var all []verdict
	for i, transport := range b.transports {
		v, err := b.diskOver(ctx, transport, i == 0)
		b.stopAll()
		if err != nil {
			return all, err
		}
		all = append(all, v...)
	}
	return all, nil
}

func (b *bench) diskOver(ctx context.Context, transport string, fill bool) ([]verdict, error) {
	kit, qemu := filepath.Join(b.dir, "nbdkit.img"), filepath.Join(b.dir, "qemu.img")
	stock, raw := filepath.Join(b.dir, "nbd-server.img"), filepath.Join(b.dir, "raw.img")
	if fill {
		for _, f := range []string{kit, qemu, stock, raw} {
			if err := fillFile(f, b.size); err != nil {
				return nil, err
			}
		}
	}
	var places [4]place
	for i := range places {
		var err error
		if places[i], err = b.place(transport); err != nil {
			return nil, err
		}
	}
	blkd, err := b.blkdNode(ctx, "blkd", places[0], "blkd")
	if err != nil {
		return nil, err
	}
	if fill {
		if err := fillExport(ctx, blkd.uri); err != nil {
			return nil, err
		}
	}
	nbdkit, err := b.nbdkit(ctx, "nbdkit", places[1], "file", kit)
	if err != nil {
		return nil, err
	}
	qemuNBD, err := b.qemuNBD(ctx, places[2], qemu)
	if err != nil {
		return nil, err
	}
	nbdServer, err := b.nbdServer(ctx, places[3], stock)
	if err != nil {
		return nil, err
	}
	rep, err := b.measure(ctx, "disk, "+transport, fio.EngineFio, b.dir, random4k, blkd, nbdkit, qemuNBD, nbdServer)
	if err != nil {
		return nil, err
	}
	seq, err := b.measure(ctx, "disk sequential, "+transport, fio.EngineFio, b.dir, sequential1m, blkd, nbdkit, qemuNBD, nbdServer,
		&server{name: "raw file", uri: "file:" + raw})
	if err != nil {
		return nil, err
	}
	return diskVerdicts(rep, seq, transport), nil
}

// memory compares what the servers cost when the disk costs nothing.
func (b *bench) memory(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	size := fmt.Sprintf("%dM", b.memorySize()>>20)
	shm := filepath.Join("/dev/shm", filepath.Base(b.dir)+".img")
	defer os.Remove(shm)
	if err := fillFile(shm, b.memorySize()); err != nil {
		return nil, err
	}
	start := func(transport string) (our, kit, qemu *server, err error) {
		var p [3]place
		for i := range p {
			if p[i], err = b.place(transport); err != nil {
				return
			}
		}
		our, err = b.start(ctx, "blkd", p[0].uri("memory"), b.memserver, "-listen", p[0].address(), "-size", size+"iB")
		if err != nil {
			return
		}
		if kit, err = b.nbdkit(ctx, "nbdkit", p[1], "memory", size); err != nil {
			return
		}
		if qemu, err = b.qemuNBD(ctx, p[2], shm); err != nil {
			return
		}
		for _, s := range []*server{our, kit} {
			if err = fillExport(ctx, s.uri); err != nil {
				return
			}
		}
		return
	}
	our, kit, qemu, err := start("tcp")
	if err != nil {
		return nil, err
	}
	tcp, err := b.measure(ctx, "memory, tcp", fio.EngineFio, "", random4k, our, kit, qemu)
	if err != nil {
		return nil, err
	}
	b.stopAll()
	if our, kit, qemu, err = start("unix"); err != nil {
		return nil, err
	}
	unix, err := b.measure(ctx, "memory, unix, batching client", fio.EngineBlkd, "", random4k, our, kit, qemu)
	if err != nil {
		return nil, err
	}
	return memoryVerdicts(tcp, unix), nil
}

// memorySize bounds the memory disks: three of them are filled at once.
func (b *bench) memorySize() int64 { return min(b.size, 512<<20) }

// tls compares one blkd with itself: the same volume with and without TLS.
func (b *bench) tls(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	certs := filepath.Join(b.dir, "certs")
	if err := writeCertificates(certs); err != nil {
		return nil, err
	}
	p, err := b.place("tcp")
	if err != nil {
		return nil, err
	}
	plain, err := b.blkdNode(ctx, "plain", p, "blkd-tls", "--nbd-tls", "allowed",
		"--nbd-tls-cert", filepath.Join(certs, "server-cert.pem"), "--nbd-tls-key", filepath.Join(certs, "server-key.pem"))
	if err != nil {
		return nil, err
	}
	if err := fillExport(ctx, plain.uri); err != nil {
		return nil, err
	}
	secure := *plain
	secure.name, secure.uri = "TLS", "nbds"+plain.uri[len("nbd"):]+"?tls-certificates="+certs
	rep, err := b.measure(ctx, "tls, batching client", fio.EngineBlkd, "", []string{"randread-4k-qd32", "randwrite-4k-qd32"}, plain, &secure)
	if err != nil {
		return nil, err
	}
	return tlsVerdicts(rep), nil
}

// checksums compares two blkd, one of which neither records nor verifies checksums.
func (b *bench) checksums(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	var pair [2]*server
	for i, c := range []struct {
		name string
		more []string
	}{{"checksums", nil}, {"none", []string{"--store-no-checksums"}}} {
		p, err := b.place("unix")
		if err != nil {
			return nil, err
		}
		if pair[i], err = b.blkdNode(ctx, c.name, p, "blkd-"+c.name, c.more...); err != nil {
			return nil, err
		}
		if err := fillExport(ctx, pair[i].uri); err != nil {
			return nil, err
		}
	}
	jobs := []string{"randread-4k-qd32", "randwrite-4k-qd32", "seqread-1m-qd8", "seqwrite-1m-qd8"}
	rep, err := b.measure(ctx, "checksums", fio.EngineFio, b.dir, jobs, pair[0], pair[1])
	if err != nil {
		return nil, err
	}
	return checksumVerdicts(rep), nil
}

// fillFile makes a file of random data, so that nothing is sparse or compressible.
func fillFile(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4<<20)
	rand.Read(buf)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if _, err := f.WriteAt(buf[:min(int64(len(buf)), size-off)], off); err != nil {
			return err
		}
		stir(buf, off)
	}
	return f.Sync()
}

// fillExport writes random data over a whole export.
func fillExport(ctx context.Context, uri string) error {
	c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 4<<20)
	rand.Read(buf)
	for off := int64(0); off < c.Size(); off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := blockdev.WriteAt(c, buf[:min(int64(len(buf)), c.Size()-off)], off, 0); err != nil {
			return fmt.Errorf("filling %s: %w", uri, err)
		}
		stir(buf, off)
	}
	return blockdev.Flush(c)
}

// forget drops the disks from the page cache, so that a read comes from the disk. Pages
// that a server has mapped or not written back stay.
func (b *bench) forget() error {
	unix.Sync()
	return filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// stir makes a buffer differ in every block from what it was.
func stir(buf []byte, off int64) {
	for i := 0; i < len(buf); i += 512 {
		buf[i] += byte(off>>22) | 1
	}
}
