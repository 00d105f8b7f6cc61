// Package erasure is an erasure code: of k data shards it makes m parity shards, so
// that any k of the k+m bring all of them back.
//
// It is a Cauchy Reed-Solomon code over GF(2^8) in its XOR form: a unit of 4096 bytes
// is 8 packets of 512, one for each bit of 4096/8 symbols, and the product with an
// element of the field is a few XORs of packets. Units are independent of each other.
package erasure

import (
	"crypto/subtle"
	"fmt"
)

const (
	// Unit is the number of bytes that are encoded by themselves: lengths are
	// multiples of it.
	Unit   = 4096
	packet = Unit / 8

	// MaxShards bounds k+m.
	MaxShards = 32
)

// Code makes parity and brings back what is lost. It is safe for concurrent use.
type Code struct {
	k, m int
	rows [][]byte // of the parity shards: their coefficients
}

// New makes the code of k data and m parity shards.
func New(k, m int) (*Code, error) {
	if k < 1 || m < 1 || k+m > MaxShards {
		return nil, fmt.Errorf("an erasure code of %d data and %d parity shards: it has at least one of each, and at most %d in all", k, m, MaxShards)
	}
	c := &Code{k: k, m: m, rows: make([][]byte, m)}
	for i := range c.rows {
		c.rows[i] = make([]byte, k)
		for j := range c.rows[i] {
			// A Cauchy matrix, of which every square part can be inverted; columns
			// and rows are scaled so that the first of each is 1. So one parity
			// shard is the XOR of the data.
			x := cauchy(k, i, j)
			x = mul(x, inverse(cauchy(k, 0, j)))
			c.rows[i][j] = mul(x, inverse(mul(cauchy(k, i, 0), inverse(cauchy(k, 0, 0)))))
		}
	}
	return c, nil
}

func cauchy(k, i, j int) byte { return inverse(byte(k+i) ^ byte(j)) }

// K is the number of data shards, whose numbers come first.
func (c *Code) K() int { return c.k }

// M is the number of parity shards.
func (c *Code) M() int { return c.m }

// Encode fills the parity shards, the last m, from the first k.
func (c *Code) Encode(shards [][]byte) {
	for i, row := range c.rows {
		combine(shards[c.k+i], row, shards[:c.k])
	}
}

// Rebuild fills dst with shard want, from k others: from[i] is shard have[i].
func (c *Code) Rebuild(dst []byte, want int, have []int, from [][]byte) error {
	if len(have) != c.k || len(from) != c.k {
		return fmt.Errorf("a shard of %d+%d is rebuilt from %d others, not from %d", c.k, c.m, c.k, len(have))
	}
	inv, err := c.invert(have)
	if err != nil {
		return err
	}
	// Shard want is row(want) × data, and data is inv × from.
	row, coef := c.row(want), make([]byte, c.k)
	for t := range coef {
		for j := range c.k {
			coef[t] ^= mul(row[j], inv[j][t])
		}
	}
	combine(dst, coef, from)
	return nil
}

// row is how a shard is made of the data.
func (c *Code) row(shard int) []byte {
	if shard >= c.k {
		return c.rows[shard-c.k]
	}
	unit := make([]byte, c.k)
	unit[shard] = 1
	return unit
}

// invert solves for the data: the inverse of the rows of k shards.
func (c *Code) invert(have []int) ([][]byte, error) {
	a, inv := make([][]byte, c.k), make([][]byte, c.k)
	for i, h := range have {
		if h < 0 || h >= c.k+c.m {
			return nil, fmt.Errorf("shard %d of %d+%d", h, c.k, c.m)
		}
		a[i] = append([]byte(nil), c.row(h)...)
		inv[i] = make([]byte, c.k)
		inv[i][i] = 1
	}
	for i := range a {
		p := i
		for p < c.k && a[p][i] == 0 {
			p++
		}
		if p == c.k {
			return nil, fmt.Errorf("shards %v do not bring the others back: one is named twice", have)
		}
		a[i], a[p], inv[i], inv[p] = a[p], a[i], inv[p], inv[i]
		scale(a[i], inv[i], inverse(a[i][i]))
		for r := range a {
			if f := a[r][i]; r != i && f != 0 {
				for j := range c.k {
					a[r][j] ^= mul(f, a[i][j])
					inv[r][j] ^= mul(f, inv[i][j])
				}
			}
		}
	}
	return inv, nil
}

func scale(a, b []byte, f byte) {
	for j := range a {
		a[j], b[j] = mul(a[j], f), mul(b[j], f)
	}
}

// combine makes dst the sum of the products of coef and from.
func combine(dst, coef []byte, from [][]byte) {
	for u := 0; u < len(dst); u += Unit {
		d := dst[u : u+Unit]
		clear(d)
		for j, e := range coef {
			addProduct(d, &products[e], from[j][u:u+Unit])
		}
	}
}

// addProduct adds the product of an element with a unit to another unit.
func addProduct(dst []byte, p *product, src []byte) {
	if p[0] == 1 && p[7] == 1<<7 { // times 1
		subtle.XORBytes(dst, dst, src)
		return
	}
	for r, mask := range p {
		d := dst[r*packet : (r+1)*packet]
		for c := 0; mask != 0; c, mask = c+1, mask>>1 {
			if mask&1 != 0 {
				subtle.XORBytes(d, d, src[c*packet:(c+1)*packet])
			}
		}
	}
}

// product is an element as a matrix of bits: packet r of a product is the sum of the
// packets c for which bit c of p[r] is set.
type product [8]byte

// The field: polynomial x^8+x^4+x^3+x^2+1, generator x.
var (
	logs     [256]int
	exps     [512]byte
	products [256]product
)

func init() {
	for i, x := 0, 1; i < 255; i++ {
		exps[i], exps[i+255], logs[x] = byte(x), byte(x), i
		if x <<= 1; x > 255 {
			x ^= 0x11d
		}
	}
	for e := range products {
		for c := range 8 {
			v := mul(byte(e), 1<<c)
			for r := range 8 {
				products[e][r] |= v >> r & 1 << c
			}
		}
	}
}

func mul(a, b byte) byte {
	if a == 0 || b == 0 {
		return 0
	}
	return exps[logs[a]+logs[b]]
}

func inverse(a byte) byte { return exps[255-logs[a]] }
