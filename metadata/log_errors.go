package metadata

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
)

var (
	// errDamaged marks what contradicts itself on the disk.
	errDamaged = errors.New("the metadata log is damaged")
	// errNewerFormat marks what a newer build wrote.
	errNewerFormat = errors.New("the metadata log was written by a newer build")
)

// LogError is why a Log cannot be used any more.
type LogError struct {
	Dir string // of the log
	Op  string // what was tried
	Err error
}

// Error says what failed, where, and what to do.
func (e *LogError) Error() string {
	return fmt.Sprintf("metadata log %s: %s: %v; %s", e.Dir, e.Op, e.Err, e.advice())
}

// Unwrap returns the cause.
func (e *LogError) Unwrap() error { return e.Err }

func (e *LogError) advice() string {
	switch {
	case errors.Is(e.Err, syscall.ENOSPC) || errors.Is(e.Err, syscall.EDQUOT):
		return "nothing is lost: free some space and restart blkd"
	case errors.Is(e.Err, syscall.EWOULDBLOCK):
		return "stop the other blkd, or give this one another --data directory"
	case errors.Is(e.Err, errNewerFormat):
		return "start a build that is as new as the one that wrote it"
	case errors.Is(e.Err, errDamaged) || pebble.IsCorruptionError(e.Err):
		return "its votes and entries must not be guessed: stop blkd, empty its data directory and run: blkctl node replace NODE"
	}
	return "check the disk and restart blkd; if it fails again, run: blkctl node replace NODE"
}

// fail records the first failure, which is final, and returns it.
func (l *Log) fail(op string, err error) error {
	var known *LogError
	if errors.As(err, &known) {
		return err
	}
	l.failed.CompareAndSwap(nil, &LogError{l.dir, op, err})
	return l.failed.Load()
}
