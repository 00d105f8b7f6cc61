package history

import (
	"fmt"
	"math"
)

// Never is the time of what does not happen.
const Never int64 = math.MaxInt64

// Operation is a read or a write of one block. Times are of a clock that all clients
// share: one operation came before another if it returned before the other was
// called; at equal times neither did.
type Operation struct {
	Block  int64
	Client int    // who asked; only Error tells of it
	Write  bool   // else it is a read
	Value  uint64 // written or, once it has returned, read
	Call   int64  // when it was asked
	Return int64  // when it was answered with success; Never: it was not
	// Limit is when a write that has not taken effect never does any more; Never:
	// that is not known.
	Limit int64
}

// String tells of the operation in one line.
func (o *Operation) String() string {
	text := "read"
	if o.Write {
		text = "write"
	}
	text = fmt.Sprintf("%s of value %d by client %d, called at %d", text, o.Value, o.Client, o.Call)
	if o.Return != Never {
		text += fmt.Sprintf(", answered at %d", o.Return)
	}
	if o.Limit != Never {
		text += fmt.Sprintf(", of no effect after %d", o.Limit)
	}
	return text
}

// end is when it has happened, if it ever does.
func (o *Operation) end() int64 { return min(o.Return, o.Limit) }
