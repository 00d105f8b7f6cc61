package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const sysBlock = "/sys/block"

// Path is the device file of an index.
func Path(index int) string { return fmt.Sprintf("/dev/nbd%d", index) }

// Index is the N of /dev/nbdN.
func Index(path string) (int, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(path, "/dev/nbd"), 10, 31)
	if err != nil || !strings.HasPrefix(path, "/dev/nbd") {
		return 0, fmt.Errorf("%q is no NBD device: name one as /dev/nbd0", path)
	}
	return int(n), nil
}

// Backend is what a device was connected with; empty if it is not connected.
func Backend(index int) string {
	b, err := os.ReadFile(attribute(index, "backend"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// InUse tells whether a device has a link, or waits for a new one.
func InUse(index int) bool {
	_, err := os.Stat(attribute(index, "pid"))
	return err == nil
}

// Size is a device's length in bytes.
func Size(index int) (int64, error) {
	b, err := os.ReadFile(attribute(index, "size"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n * 512, err
}

func attribute(index int, name string) string {
	return filepath.Join(sysBlock, fmt.Sprintf("nbd%d", index), name)
}

const (
	ioTimeout  = time.Second
	maxSectors = 1 << 20  // bytes of one request
	maxDiscard = 64 << 20 // likewise, of one that trims
)

// Tune sets what the queue of a device needs. Timeout is that of [Device].
func Tune(index int, timeout time.Duration) error {
	wait := ioTimeout
	if timeout != 0 {
		wait = timeout // a shorter one would kill a connection that is only slow
	}
	err := os.WriteFile(attribute(index, "queue/io_timeout"), []byte(strconv.FormatInt(wait.Milliseconds(), 10)), 0)
	if err != nil {
		return fmt.Errorf("request timer of /dev/nbd%d: %w", index, err)
	}
	for name, value := range map[string]int{"queue/max_sectors_kb": maxSectors >> 10, "queue/discard_max_bytes": maxDiscard} {
		// The limits of the device may be lower; its defaults work too.
		err := os.WriteFile(attribute(index, name), []byte(strconv.Itoa(value)), 0)
		if err != nil && !errors.Is(err, fs.ErrInvalid) {
			return fmt.Errorf("%s of /dev/nbd%d: %w", name, index, err)
		}
	}
	return nil
}

// Announce lets udev look at a device again, now that all about it is known.
func Announce(index int) error {
	return os.WriteFile(attribute(index, "uevent"), []byte("change"), 0)
}
