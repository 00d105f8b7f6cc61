package fio

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// procRoot is where the kernel shows processes; tests put a copy elsewhere.
var procRoot = "/proc"

// clockTick is the unit of CPU times in /proc/PID/stat: USER_HZ, 100 on every Linux
// that Go runs on.
const clockTick = 10 * time.Millisecond

// usage is what a group of processes has used since they started.
type usage struct {
	cpu   time.Duration // user and system time, with children that ended
	wrote int64         // bytes they caused to be written to storage
	hasIO bool          // whether wrote could be read: it takes the same user, or root
	known bool          // whether there were processes to ask

	disk    int64 // bytes written to the disk under them, by anyone
	hasDisk bool
}

// usageOf adds up the processes and all their descendants. A child that ends between
// two calls moves into its parent's account, so the difference stays right.
func usageOf(pids []int) (usage, error) {
	u := usage{hasIO: true}
	tree, err := descendants(pids)
	if err != nil {
		return u, err
	}
	for _, pid := range tree {
		cpu, err := cpuTime(pid)
		if err != nil {
			return u, fmt.Errorf("CPU time of server process %d: %w; is it still running?", pid, err)
		}
		u.cpu += cpu
		wrote, err := writtenBytes(pid)
		u.wrote += wrote
		u.hasIO = u.hasIO && err == nil
	}
	return u, nil
}

// statFields returns the fields of /proc/PID/stat from the third on: the second, the
// program's name in parentheses, may itself hold spaces and parentheses.
func statFields(pid int) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(procRoot, strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 15 {
		return nil, fmt.Errorf("unexpected content of /proc/%d/stat: %q", pid, clip(string(text)))
	}
	return fields, nil
}

// cpuTime is a process's utime + stime + cutime + cstime: fields 14 to 17 of stat.
func cpuTime(pid int) (time.Duration, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("unexpected time %q in /proc/%d/stat", f, pid)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// writtenBytes is write_bytes of /proc/PID/io.
func writtenBytes(pid int) (int64, error) {
	text, err := os.ReadFile(filepath.Join(procRoot, strconv.Itoa(pid), "io"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, fmt.Errorf("no write_bytes in /proc/%d/io", pid)
}

// descendants returns the processes and everything they started that still runs.
func descendants(pids []int) ([]int, error) {
	children := map[int][]int{}
	all, err := processes()
	if err != nil {
		return nil, err
	}
	for _, pid := range all {
		fields, err := statFields(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var tree []int
	var add func(pid int)
	add = func(pid int) {
		if slices.Contains(tree, pid) {
			return
		}
		tree = append(tree, pid)
		for _, child := range children[pid] {
			add(child)
		}
	}
	for _, pid := range pids {
		add(pid)
	}
	return tree, nil
}

// processes lists the ids of all running processes.
func processes() ([]int, error) {
	entries, err := os.ReadDir(procRoot)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
