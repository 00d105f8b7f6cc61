package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"blkd/internal/env"
)

// lockDataDir makes the data directory and takes it for this process. If another
// blkd has it, the error names its process id.
func lockDataDir(fs env.FS, dir string) (io.Closer, error) {
	if err := fs.MkdirAll(filepath.Join(dir, volumesDir)); err != nil {
		return nil, fmt.Errorf("data directory: %w; create it, or choose another with --data-dir", err)
	}
	name := filepath.Join(dir, "lock")
	lock, err := fs.Lock(name)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("data directory %s is in use by %s; stop that blkd first, or choose another directory with --data-dir", dir, holder(name))
	}
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := writePID(fs, name); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// writePID leaves the process id in the lock file for people and for holder.
func writePID(fs env.FS, name string) error {
	f, err := fs.Open(name, os.O_RDWR|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return errors.Join(err, f.Close())
}

// holder names the process that holds a lock file.
func holder(name string) string {
	text, err := os.ReadFile(name)
	pid := strings.TrimSpace(string(text))
	if err != nil || pid == "" {
		return "another process"
	}
	return "process " + pid
}
