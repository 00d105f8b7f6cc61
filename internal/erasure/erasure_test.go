package erasure

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// make shards of random data, encoded.
func encoded(c *Code, units int, rnd *rand.Rand) [][]byte {
	shards := make([][]byte, c.K()+c.M())
	for i := range shards {
		shards[i] = make([]byte, units*4096)
		for j := range shards[i] {
			shards[i][j] = byte(rnd.Uint32())
		}
	}
	if err := c.Encode(shards); err != nil {
		panic(err)
	}
	return shards
}

// TestRebuild: every shard comes back from any k others, of every small code.
func TestRebuild(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, s := range [][2]int{{1, 1}, {1, 2}, {1, 4}, {2, 1}, {2, 2}, {3, 2}, {4, 2}, {5, 3}, {8, 3}, {16, 4}} {
		c, err := New(s[0], s[1])
		if err != nil {
			t.Fatal(err)
		}
		shards := encoded(c, 2, rnd)
		n := c.K() + c.M()
		dst := make([]byte, len(shards[0]))
		for try := range 1 << n {
			have := pick(n, c.K(), try, rnd)
			if have == nil {
				continue
			}
			var from [][]byte
			for _, h := range have {
				from = append(from, shards[h])
			}
			for want := range n {
				if err := c.Rebuild(dst, want, have, from); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(dst, shards[want]) {
					t.Fatalf("%v: shard %d from %v is wrong", s, want, have)
				}
			}
			if try > 5000 {
				break
			}
		}
	}
}

// pick is the k-subset with these bits, in any order; of a large code, some subset.
func pick(n, k, bits int, rnd *rand.Rand) (have []int) {
	if n > 12 {
		return rnd.Perm(n)[:k]
	}
	for i := range n {
		if bits>>i&1 != 0 {
			have = append(have, i)
		}
	}
	if len(have) != k {
		return nil
	}
	rnd.Shuffle(k, func(i, j int) { have[i], have[j] = have[j], have[i] })
	return have
}

// TestParityOnDisk: the code never changes, because volumes have its parity on disk.
func TestParityOnDisk(t *testing.T) {
	c, err := New(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	shards := [][]byte{[]byte("blkd"), []byte("pour"), []byte("logs"), []byte("seal"), make([]byte, 4), make([]byte, 4)}
	if err := c.Encode(shards); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x %x", shards[4], shards[5]); got != "0e78357a dd96000e" {
		t.Errorf("parity %s", got)
	}
}

func TestBadArguments(t *testing.T) {
	for _, s := range [][2]int{{0, 1}, {1, 0}, {30, 3}, {-1, 2}} {
		if _, err := New(s[0], s[1]); err == nil {
			t.Errorf("a code of %d+%d", s[0], s[1])
		}
	}
	c, _ := New(2, 1)
	b := make([]byte, 4096)
	for _, have := range [][]int{{0}, {0, 0}, {0, 3}, {-1, 1}, {0, 1, 2}} {
		if c.Rebuild(b, 2, have, make([][]byte, len(have))) == nil {
			t.Errorf("rebuilt from %v", have)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, s := range [][2]int{{2, 1}, {4, 2}, {8, 3}} {
		b.Run(fmt.Sprintf("%d+%d", s[0], s[1]), func(b *testing.B) {
			c, _ := New(s[0], s[1])
			shards := encoded(c, 16, rand.New(rand.NewPCG(1, 1)))
			b.SetBytes(int64(s[0] * len(shards[0])))
			for b.Loop() {
				c.Encode(shards)
			}
		})
	}
}
