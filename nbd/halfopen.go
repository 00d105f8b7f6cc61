package nbd

import (
	"container/list"
	"net"
)

// halfOpen holds the connections that have not chosen an export yet, oldest first.
// The server's mutex guards it.
type halfOpen struct {
	order list.List
	where map[net.Conn]*list.Element
}

func (h *halfOpen) len() int { return h.order.Len() }

// add appends a connection and returns the oldest if there are now too many.
func (h *halfOpen) add(nc net.Conn, limit int) (evicted net.Conn) {
	if h.where == nil {
		h.where = map[net.Conn]*list.Element{}
	}
	h.where[nc] = h.order.PushBack(nc)
	if h.order.Len() > limit {
		evicted = h.order.Front().Value.(net.Conn)
		h.remove(evicted)
	}
	return evicted
}

func (h *halfOpen) remove(nc net.Conn) {
	if e := h.where[nc]; e != nil {
		h.order.Remove(e)
		delete(h.where, nc)
	}
}

func (h *halfOpen) closeAll() {
	for nc := range h.where {
		nc.Close()
	}
}
