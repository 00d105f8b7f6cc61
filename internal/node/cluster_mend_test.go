package node

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"blkd/blockdev"
	"blkd/internal/api"
)

// rotten damages every occurrence of content in a node's image of a volume, and
// tells how many there were.
func (c *trio) rotten(node string, v *api.Volume, content []byte) (n int) {
	return c.rottenImage(filepath.Join(c.store(node, v), "image"), content)
}

func (c *trio) rottenImage(name string, content []byte) (n int) {
	c.t.Helper()
	image, err := os.ReadFile(name)
	if err != nil {
		c.t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	for at := 0; ; n++ {
		i := bytes.Index(image[at:], content)
		if i < 0 {
			return n
		}
		at += i
		if _, err := f.WriteAt([]byte{content[100] ^ 1}, int64(at+100)); err != nil {
			c.t.Fatal(err)
		}
		at += len(content)
	}
}

// TestBadBlocksAreMended: blocks of the primary's image rot; clients see no error,
// and the blocks are good afterwards.
func TestBadBlocksAreMended(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	v := c.on(via, "v", "n1", "n2")
	client := c.dial("n3", "v")
	const chunk = 64 << 10 // goes straight into the image
	content := bytes.Repeat(block(1), chunk/blockdev.BlockSize)
	if err := blockdev.WriteAt(client, content, chunk, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	if n := c.rotten("n1", v, block(1)); n != chunk/blockdev.BlockSize {
		t.Fatalf("%d blocks were found in the image", n)
	}
	got := make([]byte, chunk)
	if err := blockdev.ReadAt(client, got, chunk); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("read of rotten blocks: %v", err)
	}
	repaired := func() int { return strings.Count(c.logs["n1"].String(), "a bad block was repaired") }
	if n := repaired(); n != chunk/blockdev.BlockSize {
		t.Errorf("%d blocks were repaired", n)
	}
	// Part of a block is written, which has to be read for that.
	if err := blockdev.WriteAt(client, bytes.Repeat(block(2), 16), 2*chunk, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	c.rotten("n1", v, block(2))
	if err := blockdev.WriteAt(client, []byte("part"), 2*chunk, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	want := append([]byte("part"), block(2)[4:]...)
	one := make([]byte, blockdev.BlockSize)
	if err := blockdev.ReadAt(client, one, 2*chunk); err != nil || !bytes.Equal(one, want) {
		t.Errorf("%.20q, %v", one, err)
	}
	before := repaired()
	for range 2 {
		if err := blockdev.ReadAt(client, got, chunk); err != nil || !bytes.Equal(got, content) {
			t.Errorf("read afterwards: %v", err)
		}
	}
	if repaired() != before {
		t.Error("what was repaired is bad again")
	}
}

// TestBadShardsAreMended: what rots in shards is rebuilt from the others when clients
// read it, and when shards are compared.
func TestBadShardsAreMended(t *testing.T) {
	const unit = 64 << 10
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	v := c.coded(via, "v", 24<<20, 2, 1)
	client := c.dial("n3", "v")
	stripe := append(bytes.Repeat(block(1), unit/blockdev.BlockSize), bytes.Repeat(block(2), unit/blockdev.BlockSize)...)
	if err := blockdev.WriteAt(client, stripe, 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	for _, n := range three {
		c.poured(n, "v")
	}
	rot := func(content []byte) (n int) {
		for _, node := range three {
			n += c.rottenImage(filepath.Join(filepath.Dir(c.store(node, v)), "shard", "image"), content)
		}
		return n
	}
	verify := func(repair bool) *api.VerifyReplicasProgress {
		t.Helper()
		return c.verify(via, &api.VerifyReplicasRequest{Name: "v", Repair: repair})
	}
	if p := verify(false); p.DifferentBytes != 0 || len(p.Nodes) != 3 {
		t.Fatalf("sound shards: %v", p)
	}
	if n := rot(block(1)); n != unit/blockdev.BlockSize {
		t.Fatalf("%d blocks were found in the shards", n)
	}
	if p := verify(true); p.DifferentBytes != unit || p.RepairedBytes != unit || len(p.Differences) != 1 || !p.Differences[0].Unreadable {
		t.Errorf("a rotten unit: %v", p)
	}
	rot(block(2))
	got := make([]byte, len(stripe))
	for range 3 {
		if err := blockdev.ReadAt(client, got, 0); err != nil || !bytes.Equal(got, stripe) {
			t.Fatalf("read of a rotten unit: %v", err)
		}
	}
	if p := verify(true); p.RepairedBytes != p.DifferentBytes {
		t.Errorf("what is left: %v", p)
	}
	if p := verify(false); p.DifferentBytes != 0 || p.CheckedBytes != 12<<20 {
		t.Errorf("repaired shards: %v", p)
	}
}
