package fencing

import "fmt"

// Attachment is who may write to a volume: a client, and the number that the
// metadata quorum gave it. Every takeover raises the number, so that of two clients
// with one name the later is known.
type Attachment struct {
	Holder string // a name for people: host, and what is attached there
	Number uint64 // 0: nobody has attached yet
}

// Standing is what an attachment means to a node that knows another one, which the
// quorum has recorded.
type Standing uint8

const (
	// Fenced: it was taken over. Its requests fail, for ever and on every node.
	Fenced Standing = iota + 1
	// Current: it may write.
	Current
	// Unheard: the quorum has recorded it, and this node has not heard yet. Wait
	// for the record.
	Unheard
)

var standingNames = [...]string{Fenced: "fenced", Current: "current", Unheard: "unheard"}

// String is the standing in one word.
func (s Standing) String() string {
	if s >= Fenced && s <= Unheard {
		return standingNames[s]
	}
	return fmt.Sprintf("standing(%d)", uint8(s))
}

// Standing compares a client's attachment with the one on record. Numbers decide:
// only the quorum gives them, each once. With the same number and another holder it
// is Fenced, for a number is not given twice: one of the two is forged or mistaken.
func (recorded Attachment) Standing(client Attachment) Standing {
	switch {
	case client.Number > recorded.Number:
		return Unheard
	case client == recorded && client.Number != 0:
		return Current
	}
	return Fenced
}

// String is for logs: "host1/pg (7)".
func (a Attachment) String() string {
	if a.Number == 0 {
		return "nobody"
	}
	return fmt.Sprintf("%s (%d)", a.Holder, a.Number)
}
