// Package statefile keeps what a process tells others of this machine, and its own next
// run: small files below /run, which end with the boot. So they are replaced at once, but
// not made durable.
package statefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Load reads a state that Save has written; fs.ErrNotExist: there is none.
func Load[T any](file string) (*T, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := new(T)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// Save writes a state as JSON for people.
func Save(file string, state any) error {
	b, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	return Replace(file, append(b, '\n'))
}

// Replace writes a file so that whoever reads it gets the old or the new content. Only
// one process may replace it at a time.
func Replace(file string, content []byte) error {
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// ErrLocked tells that another process has a lock.
var ErrLocked = errors.New("another process has the lock")

// Lock makes this process the only one that has the lock of a file, which it makes, and
// its directory too. The lock ends when the file is closed, or with the process.
func Lock(file string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", file, ErrLocked)
		}
		return nil, err
	}
	return f, nil
}
