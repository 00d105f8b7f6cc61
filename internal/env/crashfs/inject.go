package crashfs

import (
	"fmt"
	"path"
	"slices"
	"syscall"
)

// Op is the kind of an operation, in rules and traces. OpWrite stands for
// WriteAt and WritevAt.
type Op uint16

// The operations of a file system and its files.
const (
	OpOpen Op = 1 << iota
	OpCreate
	OpMkdir
	OpRemove
	OpRename
	OpReadDir
	OpSyncDir
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpAllocate
	OpPunch
	OpStat
	OpClose
	OpMap
)

var opNames = []string{
	"open", "create", "mkdir", "remove", "rename", "readdir", "syncdir", "read", "write", "sync",
	"truncate", "allocate", "punch", "stat", "close", "map",
}

// String is the op's name.
func (o Op) String() string {
	for i, name := range opNames {
		if o == 1<<i {
			return name
		}
	}
	return fmt.Sprintf("op(%#x)", uint16(o))
}

// Rule makes operations fail. A Rule must not be changed after Inject.
type Rule struct {
	// Ops is the set of operations, joined by |. OpStat, OpClose
	// and OpMap never fail.
	Ops Op
	// Name matches the last element of the file's name, or the whole name if
	// it has a slash, as path.Match does. Empty matches every file.
	Name string
	// Skip is how many matching operations pass first.
	Skip int
	// Times is how many fail after that, 0 for all.
	Times int
	// Err is the error, syscall.EIO if nil.
	Err error
	// Short is how many bytes of a failing write are stored all the same.
	Short int64

	seen int
}

// Inject adds a rule; the first that fails an operation decides. A Sync that
// fails dooms the file's unsynced writes (see the package comment).
func (fs *FS) Inject(r Rule) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.rules = append(fs.rules, &r)
}

// ClearRules removes every rule.
func (fs *FS) ClearRules() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.rules = nil
}

// injected returns the error that a rule asks for and how many of n bytes are
// stored nevertheless.
func (fs *FS) injected(op Op, name string, n int64) (int64, error) {
	for _, r := range fs.rules {
		if r.Ops&op == 0 || !r.matches(name) {
			continue
		}
		r.seen++
		if r.seen <= r.Skip || (r.Times > 0 && r.seen > r.Skip+r.Times) {
			continue
		}
		err := r.Err
		if err == nil {
			err = syscall.EIO
		}
		return min(r.Short, n), err
	}
	return n, nil
}

func (r *Rule) matches(name string) bool {
	if r.Name == "" {
		return true
	}
	target := path.Base(name)
	if slices.Contains([]byte(r.Name), '/') {
		target = name
	}
	ok, err := path.Match(r.Name, target)
	return ok && err == nil
}

// SetBudget limits the space that files may take, in bytes rounded down to
// 4 KiB; negative is no limit. Writes into holes and Allocate take space and
// fail with ENOSPC when there is none; a write stores what fits. PunchHole,
// Truncate and Remove give space back.
func (fs *FS) SetBudget(bytes int64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.budget = -1
	if bytes >= 0 {
		fs.budget = bytes / pageSize
	}
}

// Used is the space that files take, in bytes.
func (fs *FS) Used() int64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.used * pageSize
}

// room returns how many of the n bytes from off there is space for.
func (fs *FS) room(f *inode, off, n int64) int64 {
	if fs.budget < 0 {
		return n
	}
	free := fs.budget - fs.used
	first, end := off/pageSize, pageCount(off+n)
	if f.now.holes(first, end) <= free {
		return n
	}
	for i := first; i < end; i++ {
		if f.now.get(i) != nil {
			continue
		}
		if free--; free < 0 {
			return max(0, i*pageSize-off)
		}
	}
	return n
}

// Corrupt flips a bit (0 to 7) of the byte at off of a file: on the medium, so
// that it survives a crash, and in what reads return now. A version of the
// sector that is not durable yet and survives a crash hides it.
func (fs *FS) Corrupt(name string, off int64, bit uint) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f, err := fs.lookup(clean(name))
	switch {
	case err != nil || f.dir:
		return fmt.Errorf("crashfs: corrupt %s: no such file", name)
	case off < 0 || off >= f.now.size || bit > 7:
		return fmt.Errorf("crashfs: corrupt %s: no bit %d at offset %d of %d bytes", name, bit, off, f.now.size)
	}
	before := f.now.used
	f.flip(off, bit)
	fs.used += f.now.used - before
	return nil
}
