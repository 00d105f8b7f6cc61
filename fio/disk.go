package fio

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sysRoot is where the kernel shows block devices; tests put a copy elsewhere.
var sysRoot = "/sys"

// disk counts what reaches the disk under a file system, whoever writes it.
type disk struct{ stat string }

// diskUnder finds the disk of the file system that holds a path.
func diskUnder(path string) (*disk, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	d := &disk{filepath.Join(sysRoot, "dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)), "stat")}
	if _, err := d.written(); err != nil {
		return nil, fmt.Errorf("no disk is known under %s (%w): name a directory on a file system with a disk of its own, not tmpfs or an overlay", path, err)
	}
	return d, nil
}

// written is the number of bytes written to the disk since it appeared.
func (d *disk) written() (int64, error) {
	text, err := os.ReadFile(d.stat)
	if err != nil {
		return 0, err
	}
	// read I/Os, merges, sectors, ticks, write I/Os, merges, sectors …; a sector is 512 bytes.
	f := strings.Fields(string(text))
	if len(f) < 7 {
		return 0, fmt.Errorf("unexpected content of %s: %q", d.stat, clip(string(text)))
	}
	sectors, err := strconv.ParseInt(f[6], 10, 64)
	return sectors * 512, err
}
