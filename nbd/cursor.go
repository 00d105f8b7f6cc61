package nbd

// cursor walks over a received message and never beyond its end: after a failed
// read bad stays set and every value is zero.
type cursor struct {
	p   []byte
	bad bool
}

// take returns the next n bytes, or nil and marks the cursor bad.
func (c *cursor) take(n uint64) []byte {
	if c.bad || n > uint64(len(c.p)) {
		c.bad = true
		return nil
	}
	p := c.p[:n:n]
	c.p = c.p[n:]
	return p
}

func (c *cursor) uint16() uint16 {
	if p := c.take(2); p != nil {
		return be.Uint16(p)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if p := c.take(4); p != nil {
		return be.Uint32(p)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if p := c.take(8); p != nil {
		return be.Uint64(p)
	}
	return 0
}

// string is a 32-bit length and that many bytes.
func (c *cursor) string() string { return string(c.take(uint64(c.uint32()))) }

// done tells whether the message was well formed and is used up.
func (c *cursor) done() bool { return !c.bad && len(c.p) == 0 }
