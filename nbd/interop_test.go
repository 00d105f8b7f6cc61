package nbd

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"blkd/blockdev"
)

func TestInteropNbdinfo(t *testing.T) {
	tool(t, "nbdinfo", "libnbd-bin")
	s := startServer(t, Options{}, blockdev.NewMemory(64<<20))
	if err := blockdev.WriteAt(s.dev, []byte("data"), 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	out := run(t, "nbdinfo", s.uri("disk"))
	for _, want := range []string{
		"newstyle-fixed without TLS, using structured packets", "export-size: 67108864 (64M)",
		"description: a test disk", "can_cache: true", "can_df: true", "can_fast_zero: true", "can_flush: true",
		"can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true", "is_read_only: false",
		"base:allocation", "block_size_minimum: 1", "block_size_preferred: 4096", "block_size_maximum: 33554432",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nbdinfo does not say %q:\n%s", want, out)
		}
	}
	out = run(t, "nbdinfo", "--map", s.uri("disk"))
	if got := strings.Join(strings.Fields(out), " "); got != "0 1048576 3 hole,zero 1048576 65536 0 data 1114112 65994752 3 hole,zero" {
		t.Errorf("nbdinfo --map: %s", out)
	}
	if err := s.SetExport(Export{Name: "other", Device: blockdev.NewMemory(1 << 20), ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	out = run(t, "nbdinfo", "--list", "nbd+unix:///?socket="+s.path)
	if !strings.Contains(out, `export="disk"`) || !strings.Contains(out, `export="other"`) || !strings.Contains(out, "is_read_only: true") {
		t.Errorf("nbdinfo --list: %s", out)
	}
}

func TestInteropNbdcopy(t *testing.T) {
	tool(t, "nbdcopy", "libnbd-bin")
	const size = 48<<20 + 512
	s := startServer(t, Options{}, blockdev.NewMemory(size))
	dir := t.TempDir()
	data := make([]byte, size)
	rand.Read(data[1<<20 : 30<<20])
	in, back := filepath.Join(dir, "in"), filepath.Join(dir, "back")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "nbdcopy", "--flush", in, s.uri("disk"))
	run(t, "nbdcopy", s.uri("disk"), back)
	got, err := os.ReadFile(back)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("nbdcopy round trip differs (%v)", err)
	}
	run(t, "nbdcopy", "--connections=1", "--requests=64", "--request-size=1048576", "--synchronous", s.uri("disk"), back)
	if got, _ = os.ReadFile(back); !bytes.Equal(got, data) {
		t.Fatal("synchronous nbdcopy differs")
	}
}

func TestInteropQemuIO(t *testing.T) {
	tool(t, "qemu-io", "qemu-utils")
	s := startServer(t, Options{}, blockdev.NewMemory(64<<20))
	out := run(t, "qemu-io", "-f", "raw", s.uri("disk"),
		"-c", "write -P 7 0 1M", "-c", "write -f -P 9 1M 64k", "-c", "write -z -u 4k 4k", "-c", "write -z 8k 4k",
		"-c", "discard 12k 4k", "-c", "flush", "-c", "aio_write -P 3 32M 16M", "-c", "aio_flush",
		"-c", "read -P 7 0 4k", "-c", "read -P 0 4k 12k", "-c", "read -P 7 16k 1M -l 1000", "-c", "read -P 9 1M 64k",
		"-c", "read -P 3 32M 16M", "-c", "read -P 0 48M 16M")
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Errorf("qemu-io:\n%s", out)
	}
	out = run(t, "qemu-img", "map", "--output=json", "-f", "raw", s.uri("disk"))
	if !strings.Contains(out, `"zero": true`) || !strings.Contains(out, `"data": true`) {
		t.Errorf("qemu-img map:\n%s", out)
	}
}

// nbdshScript exercises what the other programs do not. It needs python3-libnbd.
const nbdshScript = `
import errno, sys
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.set_full_info(True)
h.connect_uri(sys.argv[1] if len(sys.argv) > 1 else uri)
size = h.get_size()
def fails(want, f):
    try:
        f()
    except nbd.Error as e:
        assert e.errnum == want, (e.errnum, want, e)
    else:
        raise AssertionError("no error, want %d" % want)
h.pwrite(b"x" * 4096, 8192, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 8192) == b"x" * 4096
assert h.pread(10, 8190) == b"\0\0" + b"x" * 8
fails(errno.EINVAL, lambda: h.pread(4096, size - 1))
fails(errno.ENOSPC, lambda: h.pwrite(b"1234", size - 1))
fails(errno.ENOSPC, lambda: h.zero(4096, size))
fails(errno.EINVAL, lambda: h.trim(4096, size))
fails(errno.EINVAL, lambda: h.cache(4096, size))
fails(errno.EINVAL, lambda: h.pread(16, 0, nbd.CMD_FLAG_REQ_ONE))
fails(errno.EINVAL, lambda: h.trim(16, 0, nbd.CMD_FLAG_NO_HOLE))
h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
h.cache(4096, 0)
h.flush()
def extents(context, offset, entries, err):
    global got
    got = list(entries)
    return 0
h.block_status(1 << 20, 0, extents, nbd.CMD_FLAG_REQ_ONE)
assert len(got) == 2 and got[0] == 65536, got
h.block_status(1 << 20, 0, extents)
assert sum(got[0::2]) == 1 << 20, got
chunks = []
def chunk(buf, off, status, err):
    chunks.append((len(buf), off, status))
    return 0
h.pread_structured(1 << 20, 0, chunk, nbd.CMD_FLAG_DF)
assert len(chunks) == 1, chunks
assert h.pread(512, size - 512) == b"\0" * 512
h.shutdown()
print("done")
`

func TestInteropNbdsh(t *testing.T) {
	python := "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import nbd").Run(); err != nil {
		t.Skip("python3 has no nbd module (Debian package python3-libnbd)")
	}
	s := startServer(t, Options{}, blockdev.NewMemory(64<<20))
	script := "import nbd\nh = nbd.NBD()\n" + nbdshScript
	if out := run(t, python, "-c", script, s.uri("disk")); !strings.Contains(out, "done") {
		t.Errorf("nbdsh: %s", out)
	}
}
