package node

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/replicas"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// coded makes an erasure-coded volume and waits until it is served.
func (c *trio) coded(via services, name string, size int64, data, parity int32) *api.Volume {
	c.t.Helper()
	_, err := via.volumes.Create(brief(c.t), &api.CreateVolumeRequest{Name: name, SizeBytes: size,
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: data, Parity: parity}})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.wait(via, name, api.WaitCondition_WAIT_CONDITION_PRIMARY)
}

// model is what a volume has to hold.
type model struct {
	t    *testing.T
	data []byte
	rnd  *rand.Rand
}

func newModel(t *testing.T, size int) *model {
	return &model{t, make([]byte, size), rand.New(rand.NewPCG(1, 2))}
}

// write changes n places, of up to most bytes each: some of them are trimmed, some
// are not whole blocks.
func (m *model) write(client *nbd.Client, n, most int) {
	m.t.Helper()
	for i := range n {
		length := 1 + m.rnd.IntN(most)
		off := m.rnd.IntN(len(m.data) - length)
		if i%4 != 0 {
			off, length = off/4096*4096, (length+4095)/4096*4096
			length = min(length, len(m.data)-off)
		}
		part := m.data[off : off+length]
		var err error
		if i%7 == 3 {
			clear(part)
			err = blockdev.Trim(client, int64(off), int64(length), 0)
		} else {
			for j := range part {
				part[j] = byte(m.rnd.Uint32())
			}
			err = blockdev.WriteAt(client, part, int64(off), 0)
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	if err := blockdev.Flush(client); err != nil {
		m.t.Fatal(err)
	}
}

// check reads everything, in pieces of different sizes.
func (m *model) check(client *nbd.Client, what string) {
	m.t.Helper()
	buf := make([]byte, 3<<20)
	for off := 0; off < len(m.data); {
		n := min(1+m.rnd.IntN(len(buf)), len(m.data)-off)
		if err := blockdev.ReadAt(client, buf[:n], int64(off)); err != nil {
			m.t.Fatalf("%s: %v", what, err)
		}
		if !bytes.Equal(buf[:n], m.data[off:off+n]) {
			for i := range n {
				if buf[i] != m.data[off+i] {
					m.t.Fatalf("%s: byte %d is %d, not %d", what, off+i, buf[i], m.data[off+i])
				}
			}
		}
		off += n
	}
}

// poured waits until the log of a node's replica holds no more than a few blocks.
func (c *trio) poured(node, volume string) {
	c.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var s replicas.Status
		for _, x := range c.nodes[node].member.replicas.Status() {
			if x.Volume == volume {
				s = x
			}
		}
		if s.Store.OverlayBlocks <= 4 {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s has not poured its log: %+v, %+v", node, s.Status, s.Store)
		}
	}
}

func TestErasureCodedVolume(t *testing.T) {
	const size = 24 << 20
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.coded(via, "v", size, 2, 1)
	promote := func(to string) {
		t.Helper()
		for ctx := brief(t); ; time.Sleep(20 * time.Millisecond) { // it may be known as down still
			_, err := via.volumes.Promote(ctx, &api.PromoteRequest{Name: "v", To: to})
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	promote("n1")
	m := newModel(t, size)
	client := c.dial("n3", "v")
	m.write(client, 100, 300_000)
	m.check(client, "in the log")
	for _, n := range three {
		c.poured(n, "v")
	}
	m.check(client, "in the shards")
	m.write(client, 50, 20_000)
	m.check(client, "in both")

	c.kill("n2")
	m.check(client, "without n2")
	m.write(client, 100, 300_000)
	m.check(client, "written without n2")
	c.start("n2")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	for _, n := range three {
		c.poured(n, "v")
	}

	c.kill("n1") // the primary
	m.check(client, "after a failover")
	m.write(client, 100, 300_000)
	m.check(client, "written after a failover")
	c.start("n1")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	promote("n1")
	m.check(client, "handed back")

	client.Close()
	c.kill(three...)
	for _, n := range three {
		c.start(n)
	}
	m.check(c.dial("n2", "v"), "after a restart of all")
}

// writeLarge has four writers write whole MiB each in a quarter of the volume, and a block
// in the midst of what they have just written.
func (m *model) writeLarge(client *nbd.Client, rounds int) {
	var writers sync.WaitGroup
	for w, part := range slices.Collect(slices.Chunk(m.data, len(m.data)/4)) {
		first, rnd := w*len(part), rand.New(rand.NewPCG(m.rnd.Uint64(), 3))
		writers.Go(func() {
			for range rounds {
				at := rnd.IntN(len(part)>>20) << 20
				for _, r := range [2][2]int{{at, 1 << 20}, {at + rnd.IntN(256)*4096, 4096}} {
					p := part[r[0] : r[0]+r[1]]
					for i := range p {
						p[i] = byte(rnd.Uint32())
					}
					if err := blockdev.WriteAt(client, p, int64(first+r[0]), 0); err != nil {
						m.t.Error(err)
						return
					}
				}
			}
		})
	}
	writers.Wait()
}

// TestErasureCodedVolumeTakesLargeWrites: they do not pass through the log, and are
// there with the small ones over them when the primary is killed in the midst of them,
// without any one member, and after a restart of all.
func TestErasureCodedVolumeTakesLargeWrites(t *testing.T) {
	const size = 24 << 20
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	v := c.coded(via, "v", size, 2, 1)
	m := newModel(t, size)
	client := c.dial("n3", "v")
	logged := func() (blocks int64) {
		for _, x := range c.nodes[v.Record.Primary].member.replicas.Status() {
			blocks += x.Store.OverlayBlocks
		}
		return blocks
	}
	m.writeLarge(client, 10)
	if n := logged(); n > 2000 {
		t.Errorf("%d blocks are in the log", n)
	}
	m.check(client, "in the shards")
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.writeLarge(client, 30)
	}()
	time.Sleep(50 * time.Millisecond)
	c.kill(v.Record.Primary)
	<-done
	m.check(client, "written while the primary was killed")
	c.start(v.Record.Primary)
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	m.writeLarge(client, 10)
	for _, n := range three[:2] {
		c.kill(n)
		m.check(client, "without "+n)
		c.start(n)
		c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	}
	client.Close()
	c.kill(three...)
	for _, n := range three {
		c.start(n)
	}
	m.check(c.dial("n2", "v"), "after a restart of all")
}

// TestErasureCodedVolumeGrows: while it is written to, also from an end in the midst of
// a stripe, and whoever is primary later or whose shard is rebuilt knows.
func TestErasureCodedVolumeGrows(t *testing.T) {
	const before, after = 4<<20 + 512*9, 12<<20 + 512
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.coded(via, "v", before, 2, 1)
	m := newModel(t, before)
	client := c.dial("n3", "v")
	m.write(client, 60, 300_000)
	c.kill("n2")
	client.Close()
	grown := c.grow(via, "n3", after).(*nbd.Client)
	m.data = append(m.data, make([]byte, after-before)...)
	m.check(grown, "just grown")
	m.write(grown, 60, 300_000)
	c.start("n2")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	for _, n := range three {
		c.poured(n, "v")
	}
	m.check(grown, "in the shards")
	if _, err := via.volumes.InvalidateReplica(brief(t), &api.InvalidateReplicaRequest{Name: "v", Node: "n2"}); err != nil {
		t.Fatal(err)
	}
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	c.kill("n1")
	m.check(grown, "with a shard that was rebuilt")
	c.start("n1")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	c.kill("n1", "n2")
	c.start("n1", "n2")
	m.check(grown, "after a restart")
	if got := c.dial("n2", "v").Size(); got != after {
		t.Errorf("n2 serves %d bytes", got)
	}
}

// holes are the bytes of a range that clients are told to be none.
func holes(t *testing.T, client *nbd.Client, off, n int64) (bytes int64) {
	t.Helper()
	err := client.Extents(off, n, func(e blockdev.Extent) bool {
		if e.Hole != e.Zero {
			t.Errorf("extent %+v", e)
		}
		if e.Hole {
			bytes += e.Len
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestErasureCodedVolumeTellsHoles: block status is of what is in the log and in the
// shards, also without one of these; and trimmed stripes take no space on any node.
func TestErasureCodedVolumeTellsHoles(t *testing.T) {
	const size, written = 24 << 20, 8 << 20
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.coded(via, "v", size, 2, 1)
	client := c.dial("n3", "v")
	told := func(what string, want int64) {
		t.Helper()
		if got := holes(t, client, 0, size); got != want {
			t.Errorf("%s: %d bytes are holes, not %d", what, got, want)
		}
	}
	told("empty", size)
	data := bytes.Repeat([]byte{7}, written)
	if err := blockdev.WriteAt(client, data, 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	told("in the log", size-written)
	if got := holes(t, client, 1<<20-512, 1024); got != 512 {
		t.Errorf("%d bytes of 512 before what is written are holes", got)
	}
	settle := func() {
		for _, n := range three {
			c.poured(n, "v")
		}
	}
	settle()
	told("in the shards", size-written)
	if err := blockdev.Trim(client, 2<<20, 4<<20, 0); err != nil {
		t.Fatal(err)
	}
	told("trimmed in the log", size-written+4<<20)
	settle()
	told("trimmed in the shards", size-written+4<<20)
	for _, n := range three {
		eventually(t, "the space of trimmed stripes is free on "+n, func() bool {
			s, _ := c.nodes[n].member.replicas.Find("v")
			return s.Store.AllocatedBytes <= (written-4<<20)/2+256<<10
		})
	}
	c.kill("n2")
	told("without n2", size-written+4<<20)
	c.start("n2")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	c.kill("n1")
	told("without n1", size-written+4<<20)
}

// TestShardMoves: from a member that is there, from the primary, from one that is
// dead, and off a drained node; a move can be given up, and no shard taken away.
func TestShardMoves(t *testing.T) {
	const size = 8 << 20
	c := newTrio(t, []string{"n1", "n2", "n3", "n4"}, nil)
	c.startAll()
	via := c.address("n1")
	_, err := via.volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "v", SizeBytes: size, Nodes: []string{"n1", "n2", "n3"},
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: 2, Parity: 1}})
	if err != nil {
		t.Fatal(err)
	}
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_PRIMARY)
	m := newModel(t, size)
	client := c.dial("n1", "v")
	m.write(client, 60, 300_000)
	move := func(from, to string) {
		t.Helper()
		v, err := via.volumes.MoveReplica(brief(t), &api.MoveReplicaRequest{Name: "v", From: from, To: to})
		if err != nil || len(members(v)) != 4 || len(v.Plan.Survives) == 0 {
			t.Fatalf("move from %s: %v, %v", from, v, err)
		}
	}
	moved := func(from string) {
		t.Helper()
		eventually(t, "the shard has moved from "+from, func() bool {
			v, err := via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
			return err == nil && len(members(v)) == 3 && !slices.Contains(members(v), from)
		})
		c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
		m.check(client, "moved from "+from)
		m.write(client, 20, 100_000)
	}
	_, err = via.volumes.AddReplica(brief(t), &api.AddReplicaRequest{Name: "v"})
	wantError(t, err, codes.FailedPrecondition, "it has 3 shards, never more")
	_, err = via.volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n3"})
	wantError(t, err, codes.FailedPrecondition, "needs each of its 3 shards")
	move("n3", "")
	moved("n3")
	eventually(t, "the data is gone", func() bool { _, has := c.nodes["n3"].member.replicas.Find("v"); return !has })
	move("n1", "n3") // the primary
	moved("n1")
	c.kill("n2")
	move("n2", "n1")
	_, err = via.volumes.MoveReplica(brief(t), &api.MoveReplicaRequest{Name: "v", From: "n2"})
	wantError(t, err, codes.FailedPrecondition, "is being moved to n1 already")
	moved("n2")
	c.start("n2")
	c.ready("n2")
	c.drain(via, &metapb.DrainNode{Name: "n4"})
	moved("n4")
}

// TestShardCatchesUp: a member that was away for longer than the log waits for it gets
// what has changed, and not the rest of its shard.
func TestShardCatchesUp(t *testing.T) {
	const size, hot = 96 << 20, 4 << 20
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.coded(via, "v", size, 2, 1)
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n1"}); err != nil {
		t.Fatal(err)
	}
	m := newModel(t, size)
	client := c.dial("n1", "v")
	fill := func(from, to int) {
		t.Helper()
		for at := from; at < to; at += 1 << 20 {
			part := m.data[at : at+1<<20]
			for i := range part {
				part[i] = byte(m.rnd.Uint32() >> 3)
			}
			if err := blockdev.WriteAt(client, part, int64(at), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(0, size)
	for _, n := range three {
		c.poured(n, "v")
	}
	for _, away := range []string{"n2", "n3"} { // one of them has the parity, or data only
		c.kill(away)
		eventually(t, away+" counts no more", func() bool {
			v, err := via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
			return err == nil && slices.ContainsFunc(v.Record.Members, func(m *metapb.Member) bool {
				return m.Node == away && m.State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE
			})
		})
		for range 10 { // more than the log keeps for it
			fill(hot, 2*hot)
		}
		if err := blockdev.Trim(client, 3*hot, hot, 0); err != nil {
			t.Fatal(err)
		}
		clear(m.data[3*hot : 4*hot])
		c.start(away)
		c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
		var copied int
		eventually(t, "it is told how much was copied", func() bool {
			log := c.logs["n1"].String()
			_, err := fmt.Sscanf(log[max(strings.LastIndex(log, away+" is level: "), 0):], away+" is level: %d bytes", &copied)
			return err == nil
		})
		if copied == 0 || copied > size/2/4 {
			t.Errorf("%s was sent %d bytes, of %d that had changed and %d of its shard", away, copied, hot, size/2)
		}
		for _, n := range three {
			c.poured(n, "v")
		}
	}
	c.kill("n1")
	m.check(c.dial("n2", "v"), "without the one that was there all the time")
}

// TestErasureCodedNodeIsReplaced: a machine dies, and a new one with empty disks takes its
// name. That of the primary likewise; and the logs of the new ones, which were made when
// the volume had grown, are larger than the others.
func TestErasureCodedNodeIsReplaced(t *testing.T) {
	const size, grown = 8 << 20, 40 << 30
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.coded(via, "v", size, 2, 1)
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n1"}); err != nil {
		t.Fatal(err)
	}
	m := newModel(t, size)
	client := c.dial("n3", "v")
	m.write(client, 60, 300_000)
	c.poured("n2", "v")
	client.Close()
	client = c.grow(via, "n3", grown).(*nbd.Client)
	replace := func(name string) {
		t.Helper()
		c.kill(name)
		m.check(client, "without "+name)
		m.write(client, 60, 300_000)
		if err := os.RemoveAll(c.cfgs[name].DataDir); err != nil {
			t.Fatal(err)
		}
		if _, err := via.ReplaceNode(brief(t), &api.ReplaceNodeRequest{Node: &metapb.ReplaceNode{Name: name}}); err != nil {
			t.Fatal(err)
		}
		c.start(name)
		c.ready(name)
		c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
		eventually(t, name+" votes again", func() bool {
			n, err := via.ShowNode(brief(t), &api.ShowNodeRequest{Name: name})
			return err == nil && (n.Role == api.NodeRole_NODE_ROLE_VOTER || n.Role == api.NodeRole_NODE_ROLE_LEADER)
		})
		m.check(client, name+" is replaced")
		m.write(client, 60, 300_000)
	}
	replace("n2")
	replace("n1")
	for _, n := range three {
		c.poured(n, "v")
	}
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n1"}); err != nil {
		t.Fatal(err)
	}
	part := bytes.Repeat([]byte{1}, 1<<20)
	for at := int64(size); at < size+200<<20; at += int64(len(part)) {
		if err := blockdev.WriteAt(client, part, at, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range three {
		c.poured(n, "v")
	}
	c.kill("n3") // the only one that was there all the time
	m.check(c.dial("n2", "v"), "with shards that were rebuilt")
}
