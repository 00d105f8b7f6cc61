package history

import (
	"cmp"
	"fmt"
	"slices"
)

// Violation is a proof that the history of a block cannot be true. It is an error.
type Violation struct {
	Block int64
	// What is wrong, and the operations that show it.
	What       string
	Operations []*Operation
}

func (v *Violation) Error() string {
	text := fmt.Sprintf("block %d: %s:", v.Block, v.What)
	for _, o := range v.Operations {
		text += "\n  " + o.String()
	}
	return text
}

// cluster is a write and the reads that have seen it. In any order that explains the
// answers they stand together, and no other write is between them.
type cluster struct {
	write *Operation // nil: what the block held before all operations
	// first is the one of them that ends first, last the one that is called last. A
	// cluster comes before all that is called after first ended, and after all that
	// ended before last was called.
	first, last *Operation
}

// before is a write that ended before all others.
var before = &Operation{Write: true, Call: -Never, Return: -Never, Limit: Never}

func (c *cluster) add(o *Operation) {
	if c.first == nil || o.end() < c.first.end() {
		c.first = o
	}
	if c.last == nil || o.Call > c.last.Call {
		c.last = o
	}
}

// forward tells whether the cluster spans a time in which no other may begin and end.
func (c *cluster) forward() bool { return c.first.end() < c.last.Call }

// Check tells whether the operations of one block, which held the value initial at
// first, are strictly linearizable. The error is a *Violation if they are not. No two
// operations may write the same value, and none the initial one. The operations are
// not changed, and in any order.
func Check(initial uint64, operations []*Operation) error {
	clusters, v := gather(initial, operations)
	if v != nil {
		return v
	}
	var spans, moments []*cluster
	for _, c := range clusters {
		if c.forward() {
			spans = append(spans, c)
		} else {
			moments = append(moments, c)
		}
	}
	// No two clusters may each come before the other. That suffices for all of them
	// to have an order.
	slices.SortFunc(spans, func(a, b *cluster) int { return cmp.Compare(a.first.end(), b.first.end()) })
	for i, c := range spans[min(1, len(spans)):] {
		if a := spans[i]; c.first.end() < a.last.Call {
			return entangled(a, c)
		}
	}
	for _, c := range moments {
		// Of the spans that begin before the cluster was called the last is the one
		// that goes on the longest.
		i, _ := slices.BinarySearchFunc(spans, c.last.Call, func(a *cluster, t int64) int { return cmp.Compare(a.first.end(), t) })
		if i > 0 && c.first.end() < spans[i-1].last.Call {
			return entangled(spans[i-1], c)
		}
	}
	return nil
}

// gather makes the clusters. A write that was not answered and that nobody has seen
// has none: it need not have happened.
func gather(initial uint64, operations []*Operation) (map[uint64]*cluster, *Violation) {
	clusters := map[uint64]*cluster{initial: {}}
	clusters[initial].add(before)
	for _, o := range operations {
		if !o.Write {
			continue
		}
		if c := clusters[o.Value]; c != nil {
			return nil, &Violation{o.Block, fmt.Sprintf("value %d is written twice, so nothing can be checked", o.Value), []*Operation{o}}
		}
		clusters[o.Value] = &cluster{write: o}
	}
	for _, o := range operations {
		if o.Write || o.Return == Never {
			continue
		}
		c := clusters[o.Value]
		switch {
		case c == nil:
			return nil, &Violation{o.Block, fmt.Sprintf("a read returns %d, which nobody wrote", o.Value), []*Operation{o}}
		case c.write != nil && o.Return < c.write.Call:
			return nil, &Violation{o.Block, fmt.Sprintf("a read returns %d before that is written", o.Value), []*Operation{o, c.write}}
		}
		c.add(o)
	}
	for value, c := range clusters {
		switch {
		case c.write == nil:
		case c.first == nil && c.write.Return == Never:
			delete(clusters, value)
		default:
			c.add(c.write)
		}
	}
	return clusters, nil
}

// entangled tells of two clusters that each come before the other.
func entangled(a, b *cluster) *Violation {
	v := &Violation{Block: a.last.Block, What: fmt.Sprintf("value %d was there before %d and after it", a.last.Value, b.last.Value)}
	for _, o := range []*Operation{a.write, a.first, b.write, b.first, b.last, a.last} {
		if o != nil && o != before && !slices.Contains(v.Operations, o) {
			v.Operations = append(v.Operations, o)
		}
	}
	return v
}
