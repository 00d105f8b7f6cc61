package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"blkd/blockdev"
	"blkd/internal/socket"
)

// errAbort ends a negotiation that the client gave up in good order.
var errAbort = errors.New("client aborted")

// handshake is the state of one negotiation:
//
//	greeting ──► options ──► GO or EXPORT_NAME ──► transmission
//	               │  ▲
//	               └──┘ STARTTLS: back to the start of options, with nothing kept
type handshake struct {
	srv *Server
	nc  net.Conn
	in  []byte // received, not used yet
	out []byte // replies not sent yet

	noZeroes bool
	secure   bool // TLS is on

	// What options have agreed on; STARTTLS forgets it.
	agreed agreement
	export *exportState // set when negotiation is over
	dev    blockdev.Device
	line   line
}

// agreement is what negotiation decides about the transmission phase.
type agreement struct {
	mode          replyMode
	allocation    bool   // base:allocation was selected
	contextExport string // for the export of this name
}

// negotiate runs the handshake. A nil conn without error means that the client
// ended it in good order.
func (s *Server) negotiate(nc net.Conn) (*conn, error) {
	if err := nc.SetDeadline(time.Now().Add(s.opts.HandshakeTimeout)); err != nil {
		return nil, fmt.Errorf("handshake: set deadline: %w", err)
	}
	h := &handshake{srv: s, nc: nc, in: make([]byte, 0, 512)}
	err := h.run()
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil && h.dev != nil {
		h.export.release(h.dev)
	}
	switch {
	case errors.Is(err, errAbort), errors.Is(err, io.EOF), isGone(err):
		return nil, nil // gave up, between messages
	case err != nil:
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return newConn(s, h), nil
}

func (h *handshake) run() error {
	h.out = be.AppendUint64(h.out, magicServer)
	h.out = be.AppendUint64(h.out, magicOption)
	h.out = be.AppendUint16(h.out, flagFixedNewstyle|flagNoZeroes)
	if err := h.send(); err != nil {
		return err
	}
	p, err := h.read(4)
	if err != nil {
		return err
	}
	flags := be.Uint32(p)
	if unknown := flags &^ (clientFixedNewstyle | clientNoZeroes); unknown != 0 {
		return fmt.Errorf("unknown client flags %#x", unknown)
	}
	h.noZeroes = flags&clientNoZeroes != 0
	for range h.srv.opts.MaxOptions {
		if err := h.option(flags&clientFixedNewstyle != 0); err != nil {
			return err
		}
		if h.export != nil {
			return nil
		}
	}
	return fmt.Errorf("more than %d options (Options.MaxOptions)", h.srv.opts.MaxOptions)
}

// option reads and answers one option.
func (h *handshake) option(fixed bool) error {
	p, err := h.read(16)
	if err != nil {
		return err
	}
	magic, option, n := be.Uint64(p), be.Uint32(p[8:]), be.Uint32(p[12:])
	switch {
	case magic != magicOption:
		return fmt.Errorf("bad option magic %#x", magic)
	case uint64(n) > uint64(h.srv.opts.MaxOptionBytes):
		return fmt.Errorf("option %d has %d bytes, limit %d (Options.MaxOptionBytes)", option, n, h.srv.opts.MaxOptionBytes)
	case !fixed && option != optExportName:
		return fmt.Errorf("option %d from a client that does not speak fixed newstyle", option)
	}
	data, err := h.read(int(n))
	if err != nil {
		return noEOF(err)
	}
	if err := h.answer(option, data); err != nil {
		return err
	}
	return h.send()
}

// read returns the next n bytes, valid until the next call. It does not read ahead
// of what the peer sends in the same piece, and takes memory only for bytes that
// have arrived.
func (h *handshake) read(n int) ([]byte, error) {
	for len(h.in) < n {
		if cap(h.in)-len(h.in) < 512 {
			h.in = append(make([]byte, 0, 2*len(h.in)+1024), h.in...)
		}
		m, err := h.nc.Read(h.in[len(h.in):cap(h.in)])
		h.in = h.in[:len(h.in)+m]
		if err != nil && len(h.in) < n {
			if len(h.in) > 0 {
				err = noEOF(err)
			}
			return nil, err
		}
	}
	p := h.in[:n:n]
	h.in = h.in[n:]
	return p, nil
}

// isGone tells whether the peer has left without a word.
func isGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// noEOF turns an end between messages into one inside a message.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// send writes the replies gathered so far.
func (h *handshake) send() error {
	if len(h.out) == 0 {
		return nil
	}
	_, err := h.nc.Write(h.out)
	h.out = h.out[:0]
	return err
}

// startTLS switches to TLS. Whatever was agreed in clear text is forgotten, and
// clear text sent ahead of the TLS handshake ends the connection: an attacker in
// the middle could have injected both.
func (h *handshake) startTLS() error {
	if len(h.in) != 0 {
		return fmt.Errorf("%d bytes of clear text follow STARTTLS", len(h.in))
	}
	h.out = appendOptionReply(h.out, optStartTLS, repAck, nil)
	if err := h.send(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.srv.opts.HandshakeTimeout)
	defer cancel()
	tc := tls.Server(socket.NewRecords(h.nc), h.srv.opts.tlsConfig())
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	h.nc, h.secure, h.agreed = tc, true, agreement{}
	return nil
}
