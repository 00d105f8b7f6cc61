package fio

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeProc makes a /proc of processes: pid to {parent, ticks of each of the four times}.
func fakeProc(t *testing.T, procs map[int][2]int) {
	t.Helper()
	root := t.TempDir()
	for pid, p := range procs {
		dir := filepath.Join(root, fmt.Sprint(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		stat := fmt.Sprintf("%d (a b) c) S %d 1 1 0 -1 0 0 0 0 0 %d %d %d %d 20 0 1 0 5 0 0\n", pid, p[0], p[1], p[1], p[1], p[1])
		write(t, filepath.Join(dir, "stat"), stat)
		write(t, filepath.Join(dir, "io"), "rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n")
	}
	old := procRoot
	procRoot = root
	t.Cleanup(func() { procRoot = old })
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestUsageCountsDescendants(t *testing.T) {
	fakeProc(t, map[int][2]int{10: {1, 1}, 11: {10, 2}, 12: {11, 3}, 20: {1, 100}})
	u, err := usageOf([]int{10, 11})
	if err != nil {
		t.Fatal(err)
	}
	want := usage{cpu: 4 * (1 + 2 + 3) * clockTick, wrote: 3 * 4096, hasIO: true}
	if u != want {
		t.Errorf("got %+v, want %+v", u, want)
	}
	if err := os.Remove(filepath.Join(procRoot, "11/io")); err != nil {
		t.Fatal(err)
	}
	if u, err = usageOf([]int{10}); err != nil || u.hasIO {
		t.Errorf("without permission for io: %+v, %v", u, err)
	}
	if _, err := usageOf([]int{99}); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("a process that is gone: %v", err)
	}
}

func TestCharge(t *testing.T) {
	s := Sample{Figures: Figures{}, ios: 1000, wrote: 4096}
	s.charge(usage{cpu: time.Second, wrote: 100, hasIO: true, known: true, disk: 1, hasDisk: true},
		usage{cpu: time.Second + 20*time.Millisecond, wrote: 100 + 8192, hasIO: true, known: true, disk: 1 + 12288, hasDisk: true})
	if s.Figures[CPU] != 20 || s.Figures[WriteAmp] != 2 || s.Figures[DiskAmp] != 3 {
		t.Errorf("got %v, want 20 µs per I/O, 2 bytes dirtied and 3 to disk per byte", s.Figures)
	}
	s = Sample{Figures: Figures{}, ios: 1000}
	s.charge(usage{hasIO: true, known: true}, usage{hasIO: true, known: true})
	if _, ok := s.Figures[WriteAmp]; ok {
		t.Error("a run that wrote nothing has a write amplification")
	}
}

func TestOwnersOfListeningSockets(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	any, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer any.Close()
	path := filepath.Join(t.TempDir(), "s")
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	_, anyPort, _ := net.SplitHostPort(any.Addr().String())
	for _, uri := range []string{"nbd://" + tcp.Addr().String() + "/x", "nbd://127.0.0.1:" + anyPort, "nbd+unix:///x?socket=" + path} {
		pids, err := owners(Target{URI: uri})
		if err != nil || !slices.Contains(pids, os.Getpid()) {
			t.Errorf("%s: owners %v, %v; want %d", uri, pids, err, os.Getpid())
		}
	}
	tcp.Close()
	for _, uri := range []string{"nbd://" + tcp.Addr().String(), "nbd+unix:///?socket=/nowhere"} {
		if pids, err := owners(Target{URI: uri}); err != nil || len(pids) != 0 {
			t.Errorf("%s, where nobody listens: owners %v, %v", uri, pids, err)
		}
	}
}

func TestHexAddress(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:2A39":                         "127.0.0.1 10809",
		"00000000000000000000000001000000:0050": "::1 80",
	} {
		ip, port, ok := hexAddress(in)
		if got := fmt.Sprint(ip, " ", port); !ok || got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
	for _, bad := range []string{"", "0100007F", "01:2A39", "zz00007F:2A39"} {
		if _, _, ok := hexAddress(bad); ok {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestDiskCountsSectors(t *testing.T) {
	old := sysRoot
	sysRoot = t.TempDir()
	t.Cleanup(func() { sysRoot = old })
	dir := t.TempDir()
	if _, err := diskUnder(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a file system without a disk: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	dev := filepath.Join(sysRoot, "dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err := os.MkdirAll(dev, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dev, "stat"), "  1 2 3 4 5 6 70 8 9 10 11\n")
	d, err := diskUnder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := d.written(); err != nil || n != 70*512 {
		t.Errorf("%d bytes (%v), want 70 sectors", n, err)
	}
}
