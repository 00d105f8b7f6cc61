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
	c.t.Helper()
	name := filepath.Join(c.store(node, v), "image")
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
