package crashfs

import (
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"blkd/internal/env"
)

type entry struct {
	name string
	node *inode
}

// entries is a directory's list, sorted by name.
type entries struct{ list []entry }

func search(list []entry, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(e entry, name string) int { return strings.Compare(e.name, name) })
}

func find(list []entry, name string) *inode {
	if i, ok := search(list, name); ok {
		return list[i].node
	}
	return nil
}

func put(list []entry, name string, node *inode) []entry {
	i, ok := search(list, name)
	if ok {
		list[i].node = node
		return list
	}
	return slices.Insert(list, i, entry{name, node})
}

func drop(list []entry, name string) []entry {
	if i, ok := search(list, name); ok {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// nameOp is a change of one or two directories. A created name has no from, a
// removed one no to.
type nameOp struct {
	seq              uint64
	from, to         *inode
	oldName, newName string
	node             *inode
}

// dirs returns the directories that the operation changes.
func (o *nameOp) dirs() []*inode {
	switch {
	case o.from == nil || o.from == o.to:
		return []*inode{o.to}
	case o.to == nil:
		return []*inode{o.from}
	}
	return []*inode{o.from, o.to}
}

// apply changes the lists that in returns.
func (o *nameOp) apply(in func(dir *inode) *entries) {
	if o.from != nil {
		d := in(o.from)
		d.list = drop(d.list, o.oldName)
	}
	if o.to != nil {
		d := in(o.to)
		d.list = put(d.list, o.newName, o.node)
	}
}

// change applies a name operation to what the process sees and remembers it.
func (fs *FS) change(o nameOp) {
	if o.from != nil {
		o.from.entries = drop(o.from.entries, o.oldName)
	}
	if o.to != nil {
		if old := find(o.to.entries, o.newName); old != nil {
			old.linked = false
			fs.release(old)
		}
		o.to.entries = put(o.to.entries, o.newName, o.node)
	}
	o.node.linked = o.to != nil
	fs.release(o.node)
	fs.names = append(fs.names, o)
}

// release gives the space of a file back once it has neither a name nor a
// handle. Its durable state stays: a crash may bring the name back.
func (fs *FS) release(f *inode) {
	if !f.linked && f.handles == 0 && !f.dir {
		fs.used -= f.now.used
		f.now = state{table: newTable()}
	}
}

// prune forgets the files that no crash can bring back.
func (fs *FS) prune() {
	fs.files = slices.DeleteFunc(fs.files, func(f *inode) bool {
		if f.linked || f.durablyLinked || f.handles > 0 {
			return false
		}
		return !slices.ContainsFunc(fs.names, func(o nameOp) bool { return o.node == f })
	})
}

func clean(name string) string { return path.Clean("/" + name) }

// lookup follows a clean path.
func (fs *FS) lookup(name string) (*inode, error) {
	n := fs.root
	for part := range strings.SplitSeq(name[1:], "/") {
		if part == "" {
			continue
		}
		if !n.dir {
			return nil, syscall.ENOTDIR
		}
		if n = find(n.entries, part); n == nil {
			return nil, syscall.ENOENT
		}
	}
	return n, nil
}

// directory is lookup for what must be a directory.
func (fs *FS) directory(name string) (*inode, error) {
	n, err := fs.lookup(name)
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	return n, err
}

// parent returns the directory of a clean path.
func (fs *FS) parent(name string) (dir *inode, base string, err error) {
	at, base := path.Split(name)
	if base == "" {
		return nil, "", syscall.EBUSY
	}
	dir, err = fs.directory(at)
	return dir, base, err
}

// fail wraps an error as the os package does; power loss stays bare.
func fail(op Op, name string, err error) error {
	if err == nil || err == ErrPowerLoss {
		return err
	}
	return &iofs.PathError{Op: op.String(), Path: name, Err: err}
}

// Open implements env.FS.
func (fs *FS) Open(name string, flag int) (env.File, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.open(clean(name), flag)
	if err != nil {
		return nil, fail(OpOpen, name, err)
	}
	n.handles++
	return &file{fs: fs, node: n, name: name, path: clean(name), life: fs.life, mode: flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)}, nil
}

func (fs *FS) open(name string, flag int) (*inode, error) {
	if fs.off {
		return nil, ErrPowerLoss
	}
	dir, base, err := fs.parent(name)
	if err != nil {
		return nil, err
	}
	n := find(dir.entries, base)
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, syscall.ENOENT
	case n == nil:
		return fs.create(dir, base, name)
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, syscall.EEXIST
	case n.dir:
		return nil, syscall.EISDIR
	}
	if _, err := fs.injected(OpOpen, name, 0); err != nil {
		return nil, err
	}
	if flag&os.O_TRUNC != 0 && n.now.size > 0 {
		err = fs.changeFile(OpTruncate, n, name, 0, 0, func(seq uint64, _ int64) error {
			n.truncate(seq, 0)
			return nil
		})
	}
	return n, err
}

func (fs *FS) create(dir *inode, base, name string) (*inode, error) {
	n := fs.newInode(false)
	err := fs.mutate(OpCreate, name, 0, 0, func(seq uint64, _ int64) error {
		fs.files = append(fs.files, n)
		fs.change(nameOp{seq: seq, to: dir, newName: base, node: n})
		return nil
	})
	return n, err
}

// MkdirAll implements env.FS.
func (fs *FS) MkdirAll(name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.off {
		return ErrPowerLoss
	}
	at, dir := "", fs.root
	for part := range strings.SplitSeq(clean(name)[1:], "/") {
		if part == "" {
			continue
		}
		at += "/" + part
		n := find(dir.entries, part)
		if n == nil {
			n = fs.newInode(true)
			err := fs.mutate(OpMkdir, at, 0, 0, func(seq uint64, _ int64) error {
				fs.change(nameOp{seq: seq, to: dir, newName: part, node: n})
				return nil
			})
			if err != nil {
				return fail(OpMkdir, name, err)
			}
		}
		if !n.dir {
			return fail(OpMkdir, name, syscall.ENOTDIR)
		}
		dir = n
	}
	return nil
}

// Remove implements env.FS.
func (fs *FS) Remove(name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fail(OpRemove, name, fs.mutate(OpRemove, clean(name), 0, 0, func(seq uint64, _ int64) error {
		dir, base, err := fs.parent(clean(name))
		if err != nil {
			return err
		}
		n := find(dir.entries, base)
		switch {
		case n == nil:
			return syscall.ENOENT
		case len(n.entries) > 0:
			return syscall.ENOTEMPTY
		}
		fs.change(nameOp{seq: seq, from: dir, oldName: base, node: n})
		return nil
	}))
}

// Rename implements env.FS.
func (fs *FS) Rename(oldName, newName string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fail(OpRename, oldName, fs.mutate(OpRename, clean(oldName), 0, 0, func(seq uint64, _ int64) error {
		return fs.rename(seq, clean(oldName), clean(newName))
	}))
}

func (fs *FS) rename(seq uint64, oldName, newName string) error {
	from, oldBase, err := fs.parent(oldName)
	if err != nil {
		return err
	}
	to, newBase, err := fs.parent(newName)
	if err != nil {
		return err
	}
	n, target := find(from.entries, oldBase), find(to.entries, newBase)
	switch {
	case n == nil:
		return syscall.ENOENT
	case target != nil && target.dir: // rename(2) may replace an empty one, os.Rename does not
		return syscall.EEXIST
	case n.dir && strings.HasPrefix(newName, oldName+"/"):
		return syscall.EINVAL
	case n == target:
		return nil
	case target != nil && n.dir:
		return syscall.ENOTDIR
	}
	fs.change(nameOp{seq: seq, from: from, to: to, oldName: oldBase, newName: newBase, node: n})
	return nil
}

// ReadDir implements env.FS.
func (fs *FS) ReadDir(name string) ([]string, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.off {
		return nil, ErrPowerLoss
	}
	d, err := fs.directory(clean(name))
	if err == nil {
		_, err = fs.injected(OpReadDir, clean(name), 0)
	}
	if err != nil {
		return nil, fail(OpReadDir, name, err)
	}
	names := make([]string, len(d.entries))
	for i, e := range d.entries {
		names[i] = e.name
	}
	return names, nil
}

// SyncDir implements env.FS.
func (fs *FS) SyncDir(name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fail(OpSyncDir, name, fs.mutate(OpSyncDir, clean(name), 0, 0, func(uint64, int64) error {
		d, err := fs.directory(clean(name))
		if err != nil {
			return err
		}
		fs.syncNames(d)
		fs.prune()
		fs.stats.DirSyncs++
		return nil
	}))
}

// syncNames makes the changes of a directory durable, and with a move from
// another directory what came before it there: order in a directory is kept.
func (fs *FS) syncNames(d *inode) {
	set := []*inode{d}
	take := make([]bool, len(fs.names))
	for i := len(fs.names) - 1; i >= 0; i-- {
		dirs := fs.names[i].dirs()
		if slices.ContainsFunc(dirs, func(d *inode) bool { return slices.Contains(set, d) }) {
			take[i] = true
			set = append(set, dirs...)
		}
	}
	var rest []nameOp
	for i, o := range fs.names {
		if !take[i] {
			rest = append(rest, o)
			continue
		}
		if o.from != nil {
			o.from.durableEntries = drop(o.from.durableEntries, o.oldName)
			o.node.durablyLinked = false
		}
		if o.to != nil {
			if old := find(o.to.durableEntries, o.newName); old != nil {
				old.durablyLinked = false
			}
			o.node.durablyLinked = true
			o.to.durableEntries = put(o.to.durableEntries, o.newName, o.node)
		}
	}
	fs.names = rest
}

// Lock implements env.FS.
func (fs *FS) Lock(name string) (io.Closer, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.open(clean(name), os.O_RDWR|os.O_CREATE)
	switch {
	case err != nil:
		return nil, fail(OpOpen, name, err)
	case n.locked:
		return nil, fmt.Errorf("lock %s: %w (another process holds it)", name, syscall.EWOULDBLOCK)
	}
	n.locked = true
	n.handles++
	return &lock{file{fs: fs, node: n, name: name, path: clean(name), life: fs.life}}, nil
}

type lock struct{ file }

// Close releases the lock.
func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	err := l.close()
	if err == nil {
		l.node.locked = false
	}
	return err
}
