package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"blkd/fio"
)

// cephJobs compare with Ceph, which is too slow for more of them in an hour.
var cephJobs = []string{"randwrite-4k-qd1", "randwrite-4k-qd32", "randread-4k-qd1", "randread-4k-qd32", "seqwrite-1m-qd8"}

// ceph compares two copies with two copies of Ceph RBD behind qemu-nbd. All of Ceph's
// daemons and qemu-nbd, which holds librbd, are charged; of blkd all three nodes. Ceph
// acknowledges a write when both copies are durable, as durability write does.
func (b *bench) ceph(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	c, err := b.startCluster(ctx, "beside-ceph", 3, "")
	if err != nil {
		return nil, err
	}
	flush, write, err := b.bothDurabilities(ctx, c)
	if err != nil {
		return nil, err
	}
	peer, err := b.cephServer(ctx)
	if err != nil {
		return nil, err
	}
	rep, err := b.measure(ctx, "ceph", fio.EngineFio, b.dir, cephJobs, flush, write, peer)
	if err != nil {
		return nil, err
	}
	return cephVerdicts(rep), nil
}

// cephConf is a cluster on one machine without authentication: each daemon keeps
// everything in a directory of its own, and copies lie on different daemons.
const cephConf = `[global]
fsid = %[1]s
mon_host = [v2:127.0.0.1:%[3]s,v1:127.0.0.1:%[4]s]
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
keyring = /dev/null
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = %[2]s
admin_socket = %[2]s/$name.asok
log_file = %[2]s/$name.log
mon_data = %[2]s/$name
mgr_data = %[2]s/$name
osd_data = %[2]s/$name
pid_file =
osd_objectstore = bluestore
bluestore_block_size = %[5]d
osd_memory_target = 1073741824
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 2
osd_pool_default_min_size = 1
mgr_initial_modules =
rbd_cache = false
`

// cephServer starts a monitor, a manager, three OSDs, and qemu-nbd on a filled image
// of two copies.
func (b *bench) cephServer(ctx context.Context) (*server, error) {
	for _, program := range []string{"ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w (apt-get install --no-install-recommends ceph-mon ceph-mgr ceph-osd ceph-common qemu-block-extra)", err)
		}
	}
	k := &cephCluster{b: b, dir: filepath.Join(b.dir, "ceph"), fsid: newUUID()}
	if err := k.start(ctx); err != nil {
		return nil, err
	}
	place, err := b.place("unix")
	if err != nil {
		return nil, err
	}
	image := "rbd:" + cephPool + "/disk:conf=" + k.conf()
	s, err := b.start(ctx, "ceph 2 copies", place.uri(""), "qemu-nbd", "-k", place.socket, "-t", "-f", "raw", "--shared=8", "--cache=none", image)
	if err != nil {
		return nil, err
	}
	s.pids = append(k.pids, s.cmd.Process.Pid)
	return s, fillExport(ctx, s.uri)
}

type cephCluster struct {
	b         *bench
	dir, fsid string
	pids      []int
}

const cephPool = "bench"

func (k *cephCluster) conf() string { return filepath.Join(k.dir, "ceph.conf") }

func (k *cephCluster) start(ctx context.Context) error {
	if err := os.Mkdir(k.dir, 0o755); err != nil {
		return err
	}
	var ports [2]string
	for i := range ports {
		p, err := k.b.place("tcp")
		if err != nil {
			return err
		}
		ports[i] = p.port
	}
	conf := fmt.Sprintf(cephConf, k.fsid, k.dir, ports[0], ports[1], 4*k.b.size+4<<30)
	if err := os.WriteFile(k.conf(), []byte(conf), 0o644); err != nil {
		return err
	}
	if err := k.monitor(ctx, ports); err != nil {
		return err
	}
	if err := k.daemon("ceph-mgr", "mgr.x", "-i", "x"); err != nil {
		return err
	}
	for i := range 3 {
		if err := k.osd(ctx, i); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"ceph", "osd", "pool", "create", cephPool, "32", "32"},
		{"rbd", "pool", "init", cephPool},
		{"rbd", "create", cephPool + "/disk", "--size", fmt.Sprint(k.b.size >> 20)},
	} {
		if err := k.run(ctx, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func (k *cephCluster) monitor(ctx context.Context, ports [2]string) error {
	monmap := filepath.Join(k.dir, "monmap")
	addresses := fmt.Sprintf("[v2:%s,v1:%s]", net.JoinHostPort("127.0.0.1", ports[0]), net.JoinHostPort("127.0.0.1", ports[1]))
	if err := k.run(ctx, "monmaptool", "--create", "--fsid", k.fsid, "--addv", "a", addresses, monmap); err != nil {
		return err
	}
	if err := k.run(ctx, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap); err != nil {
		return err
	}
	if err := k.daemon("ceph-mon", "mon.a", "-i", "a"); err != nil {
		return err
	}
	return k.run(ctx, "ceph", "-s") // waits for the monitor
}

func (k *cephCluster) osd(ctx context.Context, i int) error {
	id, uuid, name := fmt.Sprint(i), newUUID(), fmt.Sprintf("osd.%d", i)
	if err := k.run(ctx, "ceph", "osd", "new", uuid); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(k.dir, name), 0o755); err != nil {
		return err
	}
	if err := k.run(ctx, "ceph-osd", "-i", id, "--mkfs", "--osd-uuid", uuid); err != nil {
		return err
	}
	return k.daemon("ceph-osd", name, "-i", id)
}

// run runs a program to its end.
func (k *cephCluster) run(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"-c", k.conf()}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return nil
}

// daemon starts a daemon, which ends with the servers.
func (k *cephCluster) daemon(program, name string, args ...string) error {
	if err := os.MkdirAll(filepath.Join(k.dir, name), 0o755); err != nil {
		return err
	}
	s, err := k.b.launch(name, program, append([]string{"-c", k.conf(), "-f"}, args...)...)
	if err == nil {
		k.pids = append(k.pids, s.cmd.Process.Pid)
	}
	return err
}

// newUUID is a random one, as RFC 9562 has it.
func newUUID() string {
	var u [16]byte
	rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
