package replication

import "slices"

// gatherBytes is the length from which data is referred to instead of copied:
// one more buffer in a gathering write costs less than the copy.
const gatherBytes = 64 << 10

// Gather collects the frames of messages for one gathering write (writev, or
// net.Buffers). Data of 64 KiB and more is not copied; all else goes into a buffer
// that is used again. The zero value is ready.
type Gather struct {
	bufs  [][]byte
	small []byte // headers, fields and short data of all frames
	done  int    // up to here small is in bufs
	bytes int
}

// Add appends the frame of m, as [AppendMessage] does. Its long data must not
// change until the write is done.
func (g *Gather) Add(m *Message) {
	f := sizeMessage(m)
	g.bytes += f.bytes
	g.small = slices.Grow(g.small, frameHeader+f.fields)
	at := len(g.small)
	g.small = g.small[:at+frameHeader+f.fields]
	f.encodeMessage(g.small[at:], m)
	for i := range m.Entries {
		g.addData(m.Entries[i].Data)
	}
	g.addData(m.Data)
}

func (g *Gather) addData(p []byte) {
	if len(p) < gatherBytes {
		g.small = append(g.small, p...)
		return
	}
	g.flushSmall()
	g.bufs = append(g.bufs, p)
}

// flushSmall moves what was copied into the list. If small grows later, the list
// goes on referring to its old memory, which nobody changes.
func (g *Gather) flushSmall() {
	if g.done < len(g.small) {
		g.bufs = append(g.bufs, g.small[g.done:len(g.small):len(g.small)])
		g.done = len(g.small)
	}
}

// Len is how many bytes were added since the last Reset.
func (g *Gather) Len() int { return g.bytes }

// Buffers returns what was added since the last Reset, to be written in order.
// The slice, which the writer may consume, and its small buffers are valid until
// Reset.
func (g *Gather) Buffers() [][]byte {
	g.flushSmall()
	return g.bufs
}

// Reset forgets everything and keeps the memory, unless a burst has made it much
// larger than what batches need.
func (g *Gather) Reset() {
	const keep = 4 << 20
	if cap(g.small) > keep {
		g.small = nil
	}
	clear(g.bufs)
	g.bufs, g.small, g.done, g.bytes = g.bufs[:0], g.small[:0], 0, 0
}
