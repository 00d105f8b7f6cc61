package blockdev

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"blkd/internal/env"
	"blkd/internal/mutant"
)

// storedSessions is the table of a replica: of what is committed or, of a staging
// store, of what it has dropped, for what it has not is still in its log. Guarded by
// Store.mu.
type storedSessions struct {
	Sessions
	noted uint64 // changes so far,
	saved uint64 // and of the table on the disk
}

func (t *storedSessions) add(o Origin, seq Seq, end int64) {
	if o.Client != 0 {
		t.Add(o, seq, end)
		t.noted++
	}
}

func (t *storedSessions) note(r *record) { t.add(r.origin, r.seq, r.off+r.len) }

// changed is the table on its way to the disk; nil: it is there.
func (t *storedSessions) changed() *savedSessions {
	if t.noted == t.saved || mutant.On(mutant.StoreForgetSessions) {
		return nil
	}
	return &savedSessions{noted: t.noted, table: t.Append(make([]byte, sessionsHead))}
}

func (t *storedSessions) landed(w *savedSessions) {
	if w != nil {
		t.saved = w.noted
	}
}

// savedSessions is a table that is being saved.
type savedSessions struct {
	noted       uint64
	table       []byte // after its length
	number, sum uint32
}

func (w *savedSessions) landIn(sb *superblock) {
	if w != nil {
		sb.sessions, sb.sessionsSum = w.number, w.sum
	}
}

// The file has two slots, written in turn; each has its table twice, against rot.
const (
	sessionsHead = 4 // of a table: its length
	sessionsSlot = 64 << 20
	sessionsCopy = sessionsSlot / 2
)

// writeSessions saves a table durably to the slot that does not count. The next
// superblock makes it count. It holds pourMu.
func (s *Store) writeSessions(w *savedSessions) error {
	if w == nil {
		return nil
	}
	if s.sessionsFile == nil {
		if err := s.makeSessionsFile(); err != nil {
			return err
		}
	}
	if w.number = s.super.sessions + 1; w.number == 0 {
		w.number = 2 // 0 is no table
	}
	le.PutUint32(w.table, uint32(len(w.table)-sessionsHead))
	w.sum = checksum(w.table)
	at := int64(w.number%2) * sessionsSlot
	for _, off := range []int64{at, at + sessionsCopy} {
		if _, err := s.sessionsFile.WriteAt(w.table, off); err != nil {
			return err
		}
	}
	return s.sessionsFile.Sync()
}

func (s *Store) makeSessionsFile() error {
	f, err := s.o.FS.Open(s.file(sessionsFile), syscall.O_RDWR|syscall.O_CREAT)
	if err != nil {
		return err
	}
	if err := s.o.FS.SyncDir(s.o.Dir); err != nil {
		return errors.Join(err, f.Close())
	}
	s.sessionsFile = f
	return nil
}

// loadSessions reads the table that the superblock names. If it names none, a file that
// is there may not outlast a power loss yet.
func (s *Store) loadSessions() error {
	if s.super.sessions == 0 {
		return nil
	}
	f, err := s.o.FS.Open(s.file(sessionsFile), syscall.O_RDWR)
	if err != nil {
		return err
	}
	s.sessionsFile = f
	at := int64(s.super.sessions%2) * sessionsSlot
	for _, off := range []int64{at, at + sessionsCopy} {
		var b []byte
		if b, err = readSessions(f, off, s.super.sessionsSum); err != nil {
			continue
		}
		var t *Sessions
		if t, err = DecodeSessions(b); err == nil {
			s.sessions.Sessions = *t
			return nil
		}
	}
	return fmt.Errorf("%s: %w; restore the volume from another copy", s.file(sessionsFile), err)
}

func readSessions(f env.File, off int64, sum uint32) ([]byte, error) {
	var head [sessionsHead]byte
	if _, err := f.ReadAt(head[:], off); err != nil && err != io.EOF {
		return nil, err
	}
	n := le.Uint32(head[:])
	if size, err := f.Size(); err != nil || n > sessionsCopy-sessionsHead || off+sessionsHead+int64(n) > size {
		return nil, errors.Join(err, fmt.Errorf("table of %d bytes: %w", n, errFormat))
	}
	b := make([]byte, sessionsHead+n)
	if _, err := f.ReadAt(b, off); err != nil {
		return nil, err
	}
	if checksum(b) != sum {
		return nil, fmt.Errorf("checksum: %w", errFormat)
	}
	return b[sessionsHead:], nil
}

// Sessions are the operations that a replica's log holds up to an entry, which is
// committed, or behind what is. They are the caller's.
func (s *Store) Sessions(upto Seq) *Sessions {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.sessions.Clone()
	for _, e := range s.staged.entries[s.staged.dropped:] {
		if e.end.seq <= upto {
			t.Add(e.origin, e.end.seq, (e.block+e.blocks)*BlockSize)
		}
	}
	for i := range s.pending.until(upto) {
		r, _ := s.pending.at(i)
		t.Add(r.origin, r.seq, r.off+r.len)
	}
	return t
}

// Adopt gives a replica that is being copied the operations of another member's log,
// up to the entry with which its own begins. They are durable when Complete returns.
func (s *Store) Adopt(t *Sessions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions.Sessions = *t.Clone()
	s.sessions.noted++
}

// forgetSessions is part of a restart: Adopt tells those that count. It holds mu.
func (s *Store) forgetSessions() {
	s.sessions.Sessions = Sessions{}
	s.sessions.noted++
	s.sessions.saved = s.sessions.noted
}

// saveSessions saves a table that has changed, for a replica that becomes complete.
func (s *Store) saveSessions() error {
	s.pourMu.Lock()
	defer s.pourMu.Unlock()
	s.mu.Lock()
	table := s.sessions.changed()
	s.mu.Unlock()
	if table == nil {
		return nil
	}
	err := s.writeSessions(table)
	if isFull(err) {
		return s.noSpace(err)
	}
	if err != nil {
		return s.fail(err)
	}
	if err := s.saveSuper(table.landIn); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions.landed(table)
	return nil
}
