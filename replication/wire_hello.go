package replication

import (
	"fmt"

	"blkd/internal/crc32c"
)

// Whoever connects says Hello first, and the other side answers with its own, or
// with a Refusal and the end of the connection. Only then messages follow, both
// ways. These two frames are the same in all versions of the protocol: later ones
// may add fields behind those that are here, which older programs skip.

const (
	kindHello   = Kind(64)
	kindRefusal = Kind(65)

	greetingVersion = 1 // in the header of these frames, for ever
	greetingLimit   = 4096
	helloBytes      = 40 // before the names
	refusalBytes    = 4  // before the text
	maxNodeName     = 255
)

// Hello says who is at one end of a connection and whom it takes for the other
// end. A connection is for one volume.
type Hello struct {
	Min, Max        uint8 // versions of the protocol that it speaks
	Cluster         uint64
	Volume          uint64
	From            NodeID // at most 255 bytes
	FromIncarnation Incarnation
	To              NodeID      // at most 255 bytes
	ToIncarnation   Incarnation // 0: whichever run
}

// RefusalCode is why a connection is refused, for programs. Codes are never used
// again for something else.
type RefusalCode uint16

const (
	RefusedVersion     RefusalCode = 1 // no version of the protocol in common
	RefusedCluster     RefusalCode = 2 // another cluster
	RefusedNode        RefusalCode = 3 // not the node that was meant
	RefusedIncarnation RefusalCode = 4 // an earlier or later run of the node was meant
	RefusedVolume      RefusalCode = 5 // no replica of this volume here
	RefusedBusy        RefusalCode = 6 // for now: starting, stopping, or at a limit
)

// Refusal is the answer to a Hello that is not accepted.
type Refusal struct {
	Code RefusalCode
	Text string // for the operator: what is wrong and what to do; at most 1000 bytes are sent
}

func (r *Refusal) Error() string { return "the connection was refused: " + r.Text }

const maxRefusalText = 1000

func refusef(code RefusalCode, format string, args ...any) *Refusal {
	return &Refusal{code, fmt.Sprintf(format, args...)}
}

// Agree compares what the two ends of a connection have said and returns the
// version of the protocol to speak, or why there must be no connection. Both ends
// come to the same version.
func Agree(own, peer *Hello) (version uint8, refused *Refusal) {
	switch {
	case own.Min > peer.Max || peer.Min > own.Max:
		return 0, refusef(RefusedVersion, "node %s speaks versions %d to %d of the replication protocol, and node %s versions %d to %d; "+
			"upgrade the older one", own.From, own.Min, own.Max, peer.From, peer.Min, peer.Max)
	case own.Cluster != peer.Cluster:
		return 0, refusef(RefusedCluster, "node %s belongs to cluster %016x, and node %s to %016x; compare their addresses",
			own.From, own.Cluster, peer.From, peer.Cluster)
	case peer.To != own.From:
		return 0, refusef(RefusedNode, "node %s answers at the address of node %s; compare their addresses", own.From, peer.To)
	case own.To != peer.From:
		return 0, refusef(RefusedNode, "node %s answers at the address of node %s; compare their addresses", peer.From, own.To)
	case peer.ToIncarnation != 0 && peer.ToIncarnation != own.FromIncarnation:
		return 0, refusef(RefusedIncarnation, "run %016x of node %s was meant, and this is run %016x; it was restarted, ask again",
			uint64(peer.ToIncarnation), own.From, uint64(own.FromIncarnation))
	case own.ToIncarnation != 0 && own.ToIncarnation != peer.FromIncarnation:
		return 0, refusef(RefusedIncarnation, "run %016x of node %s was meant, and it is run %016x; it was restarted, ask again",
			uint64(own.ToIncarnation), peer.From, uint64(peer.FromIncarnation))
	case own.Volume != peer.Volume:
		return 0, refusef(RefusedVolume, "the connection of node %s is for volume %d, not %d", peer.From, peer.Volume, own.Volume)
	}
	return min(own.Max, peer.Max), nil
}

// AppendHello appends the frame of h to dst. Names of more than 255 bytes panic.
func AppendHello(dst []byte, h *Hello) []byte {
	b := make([]byte, helloBytes, helloBytes+2+len(h.From)+len(h.To))
	b[0], b[1] = h.Min, h.Max
	le.PutUint64(b[8:], h.Cluster)
	le.PutUint64(b[16:], h.Volume)
	le.PutUint64(b[24:], uint64(h.FromIncarnation))
	le.PutUint64(b[32:], uint64(h.ToIncarnation))
	for _, name := range []NodeID{h.From, h.To} {
		if len(name) > maxNodeName {
			panic(fmt.Sprintf("replication: the name of node %.32s… has %d bytes", name, len(name)))
		}
		b = append(b, byte(len(name)))
		b = append(b, name...)
	}
	return appendGreeting(dst, kindHello, b)
}

// AppendRefusal appends the frame of r to dst.
func AppendRefusal(dst []byte, r *Refusal) []byte {
	text := r.Text[:min(len(r.Text), maxRefusalText)]
	b := make([]byte, refusalBytes, refusalBytes+len(text))
	le.PutUint16(b, uint16(r.Code))
	le.PutUint16(b[2:], uint16(len(text)))
	return appendGreeting(dst, kindRefusal, append(b, text...))
}

func appendGreeting(dst []byte, kind Kind, fields []byte) []byte {
	f := frame{bytes: frameHeader + len(fields), fields: len(fields), kind: kind, version: greetingVersion}
	f.fieldsCS = crc32c.Checksum(fields)
	var header [frameHeader]byte
	f.encode(header[:])
	return append(append(dst, header[:]...), fields...)
}

// DecodeGreeting decodes the first frame of a connection, at the start of buf: a
// Hello or a Refusal, n bytes long. n is 0 if buf does not hold all of it yet; it
// has at most 4096 bytes. An error matches ErrWire and is final.
func DecodeGreeting(buf []byte) (h *Hello, r *Refusal, n int, err error) {
	if len(buf) < frameHeader {
		return nil, nil, 0, nil
	}
	var f frame
	if err := f.decode(buf, greetingLimit); err != nil {
		return nil, nil, 0, err
	}
	switch {
	case f.kind != kindHello && f.kind != kindRefusal:
		return nil, nil, 0, fmt.Errorf("%w: header: kind %d where a hello or a refusal was expected", ErrWire, uint8(f.kind))
	case f.version != greetingVersion:
		return nil, nil, 0, fmt.Errorf("%w: header: a greeting of version %d, not %d", ErrWire, f.version, greetingVersion)
	case f.payload() != 0:
		return nil, nil, 0, fmt.Errorf("%w: header: a greeting with %d bytes of payload", ErrWire, f.payload())
	case len(buf) < f.bytes:
		return nil, nil, 0, nil
	}
	fields := buf[frameHeader:f.bytes]
	if err := f.checkFields("greeting", fields); err != nil {
		return nil, nil, 0, err
	}
	if f.kind == kindHello {
		h, err = decodeHello(fields)
	} else {
		r, err = decodeRefusal(fields)
	}
	if err != nil {
		return nil, nil, 0, fmt.Errorf("%w: %w", ErrWire, err)
	}
	return h, r, f.bytes, nil
}

func decodeHello(b []byte) (*Hello, error) {
	if len(b) < helloBytes {
		return nil, fmt.Errorf("hello: %d bytes of fields, fewer than %d", len(b), helloBytes)
	}
	h := &Hello{
		Min: b[0], Max: b[1], Cluster: le.Uint64(b[8:]), Volume: le.Uint64(b[16:]),
		FromIncarnation: Incarnation(le.Uint64(b[24:])), ToIncarnation: Incarnation(le.Uint64(b[32:])),
	}
	if h.Min == 0 || h.Min > h.Max {
		return nil, fmt.Errorf("hello: versions: %d to %d", h.Min, h.Max)
	}
	b = b[helloBytes:]
	for _, name := range []struct {
		of string
		to *NodeID
	}{{"from", &h.From}, {"to", &h.To}} {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return nil, fmt.Errorf("hello: %s: the name does not fit in the frame", name.of)
		}
		n := 1 + int(b[0])
		*name.to, b = NodeID(b[1:n]), b[n:]
	}
	return h, nil
}

func decodeRefusal(b []byte) (*Refusal, error) {
	if len(b) < refusalBytes || len(b)-refusalBytes < int(le.Uint16(b[2:])) {
		return nil, fmt.Errorf("refusal: text: it does not fit in the %d bytes of fields", len(b))
	}
	return &Refusal{RefusalCode(le.Uint16(b)), string(b[refusalBytes : refusalBytes+int(le.Uint16(b[2:]))])}, nil
}
