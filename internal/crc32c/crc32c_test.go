package crc32c

import (
	"fmt"
	"hash/crc32"
	"math/big"
	"math/rand/v2"
	"testing"
)

func reference(crc uint32, p []byte) uint32 { return crc32.Update(crc, table, p) }

// eachPath runs a test with and without wide registers. Where there are none,
// both are the same.
func eachPath(t *testing.T, f func(t *testing.T)) {
	for _, wide := range []bool{false, haveFold} {
		t.Run(fmt.Sprintf("fold=%v", wide), func(t *testing.T) {
			forcePath(t, wide)
			f(t)
		})
	}
}

func forcePath(t testing.TB, wide bool) {
	old := useFold
	useFold = wide
	t.Cleanup(func() { useFold = old })
}

// fills are contents that go wrong in different ways.
var fills = map[string]func(p []byte, r *rand.Rand){
	"zeros": func(p []byte, _ *rand.Rand) { clear(p) },
	"ones": func(p []byte, _ *rand.Rand) {
		for i := range p {
			p[i] = 0xff
		}
	},
	"count": func(p []byte, _ *rand.Rand) {
		for i := range p {
			p[i] = byte(i)
		}
	},
	"random": func(p []byte, r *rand.Rand) {
		for i := range p {
			p[i] = byte(r.Uint32())
		}
	},
}

func TestKnownSums(t *testing.T) {
	ascending := make([]byte, 32)
	for i := range ascending {
		ascending[i] = byte(i)
	}
	eachPath(t, func(t *testing.T) {
		for _, c := range []struct {
			in   []byte
			want uint32
		}{
			{nil, 0},
			{[]byte("123456789"), 0xe3069283}, // the check value of the catalogues
			{make([]byte, 32), 0x8a9136aa},    // RFC 3720, B.4
			{ascending, 0x46dd794e},           // RFC 3720, B.4
			{make([]byte, 4096), 0x98f94189},
		} {
			if got := Checksum(c.in); got != c.want {
				t.Errorf("Checksum of %d bytes %.16x: %#08x, want %#08x", len(c.in), c.in, got, c.want)
			}
		}
	})
}

func TestEveryLengthAndAlignment(t *testing.T) {
	const maxLen = 5000
	for name, fill := range fills {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			buf := make([]byte, maxLen+64)
			fill(buf, r)
			eachPath(t, func(t *testing.T) {
				for n := range maxLen + 1 {
					for at := range 64 {
						p, seed := buf[at:at+n], r.Uint32()
						if got, want := Update(seed, p), reference(seed, p); got != want {
							t.Fatalf("%d bytes at %d after %#x: %#08x, want %#08x", n, at, seed, got, want)
						}
					}
				}
			})
		})
	}
}

// TestEveryBit flips each bit of a block: each has its own way into the sum.
func TestEveryBit(t *testing.T) {
	eachPath(t, func(t *testing.T) {
		p := make([]byte, 1024)
		for bit := range 8 * len(p) {
			p[bit/8] ^= 1 << (bit % 8)
			if got, want := Checksum(p), reference(0, p); got != want {
				t.Fatalf("bit %d: %#08x, want %#08x", bit, got, want)
			}
			p[bit/8] ^= 1 << (bit % 8)
		}
	})
}

func TestSplitUpdates(t *testing.T) {
	eachPath(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		p := make([]byte, 10000)
		fills["random"](p, r)
		want := reference(0, p)
		for range 2000 {
			var cuts []int
			crc := uint32(0)
			for rest := p; len(rest) > 0; {
				n := min(r.IntN(3000), len(rest))
				cuts = append(cuts, n)
				crc, rest = Update(crc, rest[:n]), rest[n:]
			}
			if crc != want {
				t.Fatalf("pieces of %v: %#08x, want %#08x", cuts, crc, want)
			}
		}
	})
}

func TestNoAllocation(t *testing.T) {
	p := make([]byte, 4096)
	eachPath(t, func(t *testing.T) {
		if n := testing.AllocsPerRun(100, func() { Update(1, p) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// TestKeys derives each key anew, by the long division of big numbers.
func TestKeys(t *testing.T) {
	keyed := func(where string, keys [4]foldKey, bytes ...int) {
		for i, distance := range bytes {
			if got, want := keys[i][0], dividedKey(8*distance+63); got != want {
				t.Errorf("%s, lane %d, first half: %#x, want %#x", where, i, got, want)
			}
			if got, want := keys[i][1], dividedKey(8*distance-1); got != want {
				t.Errorf("%s, lane %d, second half: %#x, want %#x", where, i, got, want)
			}
		}
	}
	keyed("step", foldKeys.step, 256, 256, 256, 256)
	keyed("next", foldKeys.next, 64, 64, 64, 64)
	keyed("lanes", foldKeys.lanes, 48, 32, 16)
	if foldKeys.lanes[3] != (foldKey{}) {
		t.Errorf("lanes, last: %#x, want zeros", foldKeys.lanes[3])
	}
}

// dividedKey returns x^n mod P in a register: x^i at bit 63-i.
func dividedKey(n int) (key uint64) {
	p := new(big.Int).SetUint64(1<<32 | castagnoli)
	rest := new(big.Int).Lsh(big.NewInt(1), uint(n))
	for rest.BitLen() > 32 {
		rest.Xor(rest, new(big.Int).Lsh(p, uint(rest.BitLen()-33)))
	}
	for i := range 32 {
		key |= uint64(rest.Bit(i)) << (63 - i)
	}
	return key
}

// TestPolynomial holds the constant against the standard library's, which is
// written with the bits reversed.
func TestPolynomial(t *testing.T) {
	if got := uint32(register(castagnoli) >> 32); got != crc32.Castagnoli {
		t.Errorf("%#x, want %#x", got, crc32.Castagnoli)
	}
}
