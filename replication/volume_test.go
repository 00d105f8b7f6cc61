package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/blockdev/devicetest"
	"blkd/internal/env"
)

// ramReplica is a replica with real content and no durability.
type ramReplica struct {
	mu         sync.Mutex
	image      []byte
	log        []blockdev.Entry
	baseGen    Generation
	base       Seq
	commit     Seq
	incomplete bool
	lineage    uint64
	prom       Generation
}

func (r *ramReplica) last() (Generation, Seq) {
	if n := len(r.log); n > 0 {
		return r.log[n-1].Gen, r.log[n-1].Seq
	}
	return r.baseGen, r.base
}

func (r *ramReplica) Last() (Generation, Seq) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last()
}

func (r *ramReplica) Append(entries []blockdev.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		if _, last := r.last(); e.Seq != last+1 {
			return fmt.Errorf("entry %d after %d", e.Seq, last)
		}
		e.Data = slices.Clone(e.Data)
		r.log = append(r.log, e)
	}
	return nil
}

func (r *ramReplica) Commit(seq Seq) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.commit < seq {
		e := &r.log[r.commit-r.base]
		if e.Kind == blockdev.EntryWrite {
			copy(r.image[e.Off:], e.Data)
		} else if e.Kind == blockdev.EntryZero {
			clear(r.image[e.Off : e.Off+e.Len])
		}
		r.commit++
	}
	const kept = 1000
	if n := int(r.commit-r.base) - kept; n > kept {
		r.baseGen, r.base = r.log[n-1].Gen, r.log[n-1].Seq
		r.log = slices.Clone(r.log[n:])
	}
	return nil
}

func (r *ramReplica) Truncate(seq Seq) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = r.log[:seq-r.base]
	return nil
}

func (r *ramReplica) Committed() Seq {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.commit
}

func (r *ramReplica) GenAt(seq Seq) (Generation, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch _, last := r.last(); {
	case seq == r.base:
		return r.baseGen, true
	case seq < r.base || seq > last:
		return 0, false
	}
	return r.log[seq-r.base-1].Gen, true
}

func (r *ramReplica) ReadLog(after Seq, _ int) ([]blockdev.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if after < r.base {
		return nil, errors.New("trimmed")
	}
	rest := r.log[after-r.base:]
	return slices.Clone(rest[:min(len(rest), 64)]), nil
}

func (r *ramReplica) Sessions(upto Seq) *blockdev.Sessions {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := new(blockdev.Sessions)
	for i := range r.log {
		if e := &r.log[i]; e.Seq <= upto {
			t.Add(e.Origin, e.Seq, e.Off+e.Len)
		}
	}
	return t
}

func (r *ramReplica) Import(off, n int64, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if data == nil {
		clear(r.image[off : off+n])
	}
	copy(r.image[off:], data)
	return nil
}

func (r *ramReplica) Reset(gen Generation, seq Seq) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.image)
	r.log, r.baseGen, r.base, r.commit, r.incomplete = nil, gen, seq, seq, true
	return nil
}

func (r *ramReplica) Adopt(*blockdev.Sessions)             {}
func (r *ramReplica) Complete() error                      { r.incomplete = false; return nil }
func (r *ramReplica) Incomplete() bool                     { return r.incomplete }
func (r *ramReplica) Keep(Seq)                             {}
func (r *ramReplica) Sync() error                          { return nil }
func (r *ramReplica) Size() int64                          { return int64(len(r.image)) }
func (r *ramReplica) Resize(int64) error                   { return blockdev.ErrNotSupported }
func (r *ramReplica) Promised() (uint64, Generation)       { return r.lineage, r.prom }
func (r *ramReplica) Promise(l uint64, g Generation) error { r.lineage, r.prom = l, g; return nil }

func (r *ramReplica) NextData(off int64) (int64, int64, error) {
	if off >= r.Size() {
		return off, 0, nil
	}
	return off, r.Size() - off, nil
}

func (r *ramReplica) ReadCommitted(p []byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(p, r.image[off:])
	return nil
}

func (r *ramReplica) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	if err := blockdev.CheckExtents(off, n, r.Size()); err != nil {
		return err
	}
	emit(blockdev.Extent{Off: off, Len: n})
	return nil
}

// quorum decides about one volume for a cluster in this process.
type quorum struct {
	mu      sync.Mutex
	rec     *Record
	volumes map[NodeID]*Volume
}

func (q *quorum) Propose(_ context.Context, p Proposal) error {
	q.mu.Lock()
	r := *q.rec
	if r.Generation != p.Generation || r.Number != p.Number {
		q.mu.Unlock()
		return &RefusedError{"another record"}
	}
	r.Number++
	if p.Members != nil {
		r.Members = p.Members
	} else {
		r.Generation++
		r.Primary, r.PrimaryIncarnation = p.Promote, p.PromoteInc
	}
	q.rec = &r
	q.mu.Unlock()
	for _, v := range q.volumes {
		go v.Record(&r)
	}
	return nil
}

// cell is a volume on several nodes of this process, connected over loopback.
type cell struct {
	*quorum
	names []NodeID
	disks map[NodeID]*ramReplica
}

func newCell(t testing.TB, n int, policy Policy, size int64) *cell {
	c := &cell{quorum: &quorum{volumes: map[NodeID]*Volume{}}, disks: map[NodeID]*ramReplica{}}
	c.rec = &Record{Lineage: 7, Generation: 1, Number: 1, Policy: policy, MinCopies: 1, Durability: DurableFlush,
		Attachment: 1}
	for i := range n {
		name := NodeID(fmt.Sprintf("n%d", i+1))
		c.names = append(c.names, name)
		c.rec.Members = append(c.rec.Members, Member{Node: name, Incarnation: Incarnation(i + 1), State: UpToDate})
	}
	c.rec.Primary, c.rec.PrimaryIncarnation = "n1", 1
	for i, name := range c.names {
		disk := &ramReplica{image: make([]byte, size)}
		c.disks[name] = disk
		c.volumes[name] = NewVolume(VolumeConfig{
			Core: Config{Self: name, Incarnation: Incarnation(i + 1), Gate: disk, Fresh: true},
			Disk: disk, Clock: env.SystemClock{}, Authority: c,
		})
		t.Cleanup(c.volumes[name].Close)
	}
	for i, a := range c.names {
		for _, b := range c.names[:i] {
			c.connect(t, a, b)
		}
	}
	for _, v := range c.volumes {
		v.Record(c.rec)
	}
	return c
}

// connect joins two replicas by a TCP connection.
func (c *cell) connect(t testing.TB, a, b NodeID) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { c.volumes[a].Serve(dialed, b, WireVersion) })   //nolint:errcheck // ends with the test
	serving.Go(func() { c.volumes[b].Serve(accepted, a, WireVersion) }) //nolint:errcheck // likewise
	t.Cleanup(func() {
		dialed.Close()
		accepted.Close()
		serving.Wait()
	})
}

// primary waits until a node serves and returns the device of its generation.
func (c *cell) primary(t testing.TB, name NodeID) *Session {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if role, gen := c.volumes[name].Role(); role == Primary {
			return c.volumes[name].Session(gen, 1, blockdev.Origin{})
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s does not serve", name)
	return nil
}

func TestVolumeConformance(t *testing.T) {
	for _, shape := range []struct {
		n      int
		policy Policy
	}{{1, AckAll}, {2, AckAll}, {3, AckMajority}} {
		t.Run(fmt.Sprintf("mirror%d", shape.n), func(t *testing.T) {
			devicetest.Run(t, func(t *testing.T) blockdev.Device {
				return newCell(t, shape.n, shape.policy, devicetest.MinSize).primary(t, "n1")
			})
		})
	}
}

// TestVolumeMuchAtOnce: batches of more than may be under way, from several clients.
func TestVolumeMuchAtOnce(t *testing.T) {
	const size = 64 << 20
	d := newCell(t, 1, AckAll, size).primary(t, "n1")
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			var done sync.WaitGroup
			var batch []*blockdev.Request
			add := func(op blockdev.Op, off, n int64, data []byte) {
				done.Add(1)
				batch = append(batch, &blockdev.Request{Op: op, Off: off, Len: n, Data: data, Done: func(r *blockdev.Request) {
					if r.Err != nil {
						t.Errorf("%v: %v", r.Op, r.Err)
					}
					done.Done()
				}})
			}
			for range 4 {
				add(blockdev.OpTrim, 0, size, nil)
				add(blockdev.OpWrite, 0, 7<<20, make([]byte, 7<<20))
			}
			d.Submit(batch)
			done.Wait()
		})
	}
	clients.Wait()
}

func TestVolumeHandoverUnderLoad(t *testing.T) {
	const blocks = 64
	c := newCell(t, 2, AckAll, blocks*blockSize)
	var mu sync.Mutex
	versions := map[int64]uint64{}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for w := range int64(4) {
		load.Go(func() {
			buf := make([]byte, blockSize)
			for n := uint64(1); ; n++ {
				block := w + 4*int64(n%(blocks/4))
				binary.LittleEndian.PutUint64(buf, n)
				for {
					err := blockdev.WriteAt(c.anyPrimary(), buf, block*blockSize, 0)
					if err == nil {
						break
					}
					if !errors.Is(err, ErrMoved) {
						t.Errorf("write: %v", err)
						return
					}
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
				mu.Lock()
				versions[block] = n
				mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 10 {
		from, to := c.names[i%2], c.names[(i+1)%2]
		c.primary(t, from)
		for {
			if err := c.volumes[from].Handover(to); err == nil {
				break
			}
			time.Sleep(time.Millisecond) // not level yet
		}
		c.primary(t, to)
	}
	close(stop)
	load.Wait()
	dev := c.primary(t, "n1")
	buf := make([]byte, blockSize)
	for block, n := range versions {
		if err := blockdev.ReadAt(dev, buf, block*blockSize); err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(buf); got < n {
			t.Errorf("block %d has version %d, %d was acknowledged", block, got, n)
		}
	}
	if len(versions) == 0 {
		t.Error("nothing was written")
	}
}

// anyPrimary is the device of whoever serves; of the first node if nobody does.
func (c *cell) anyPrimary() *Session {
	for _, v := range c.volumes {
		if role, gen := v.Role(); role == Primary {
			return v.Session(gen, 1, blockdev.Origin{})
		}
	}
	return c.volumes["n1"].Session(0, 1, blockdev.Origin{})
}

// BenchmarkVolumeWrite is 4 KiB writes through sockets, to replicas in memory.
func BenchmarkVolumeWrite(b *testing.B) {
	for _, copies := range []int{1, 2, 3} {
		for _, depth := range []int{1, 32, 128} {
			b.Run(fmt.Sprintf("copies=%d/depth=%d", copies, depth), func(b *testing.B) { benchWrite(b, copies, depth) })
		}
	}
}

func benchWrite(b *testing.B, copies, depth int) {
	policy := AckAll
	if copies > 2 {
		policy = AckMajority
	}
	const blocks = 4096
	c := newCell(b, copies, policy, blocks*blockSize)
	dev := c.volumes["n1"].Session(c.primary(b, "n1").gen, 1, blockdev.Origin{Client: 1, Session: 1})
	done := make(chan *blockdev.Request, depth)
	data := make([]byte, blockSize)
	free := make([]*blockdev.Request, depth)
	for i := range free {
		free[i] = &blockdev.Request{Op: blockdev.OpWrite, Data: data, Len: blockSize, Done: func(r *blockdev.Request) { done <- r }}
	}
	b.SetBytes(blockSize)
	b.ReportAllocs()
	b.ResetTimer()
	sent, answered := 0, 0
	for answered < b.N {
		batch := free[:min(len(free), b.N-sent)]
		for i, r := range batch {
			r.Off = int64(sent+i) * 7919 % blocks * blockSize
			r.Number = uint64(sent + i + 1)
		}
		dev.Submit(batch)
		sent += len(batch)
		free = free[:0:0]
		for wait := true; wait || len(done) > 0; wait = false {
			r := <-done
			if r.Err != nil {
				b.Fatal(r.Err)
			}
			answered++
			free = append(free, r)
			if answered == b.N {
				break
			}
		}
	}
}
