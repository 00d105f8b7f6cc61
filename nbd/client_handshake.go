package nbd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"time"

	"blkd/internal/socket"
)

// exportInfo is what the handshake says about an export.
type exportInfo struct {
	size       int64
	flags      uint16
	mode       replyMode
	allocation uint32 // id of base:allocation, if hasStatus
	hasStatus  bool

	minBlock, preferred, maxPayload uint32
}

// greeter is the client's side of a negotiation.
type greeter struct {
	nc     net.Conn
	secure bool
}

// OptionError is a server's refusal of an option.
type OptionError struct {
	Option, Reply uint32
	Message       string
}

// ErrTLSRequired tells that a server serves nobody without TLS.
var ErrTLSRequired = errors.New("the server requires TLS")

// Is has errors.Is find ErrTLSRequired.
func (e *OptionError) Is(target error) bool {
	return target == ErrTLSRequired && e.Reply == repErrTLSReqd
}

func (e *OptionError) Error() string {
	reason := map[uint32]string{
		repErrUnsup: "not supported", repErrPolicy: "forbidden by policy", repErrInvalid: "invalid",
		repErrTLSReqd: "the server requires TLS; use nbds://", repErrUnknown: "no such export",
		repErrShutdown: "the server is shutting down", repErrTooBig: "too big", repErrExtHdrReqd: "needs extended headers",
	}[e.Reply]
	if reason == "" {
		reason = fmt.Sprintf("error %#x", e.Reply)
	}
	if e.Message != "" {
		reason += ": " + e.Message
	}
	return fmt.Sprintf("server refuses option %d: %s", e.Option, reason)
}

// dial connects and negotiates up to the options, with TLS if the URI says so.
func dial(ctx context.Context, u URI, opts *DialOptions) (g *greeter, err error) {
	ctx, cancel := context.WithTimeout(ctx, opts.HandshakeTimeout)
	defer cancel()
	nc, err := opts.Dial(ctx, u.Network, u.Address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	g = &greeter{nc: nc}
	if err = g.greet(); err == nil && u.TLS {
		err = g.startTLS(ctx, u, opts)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return g, nil
}

// connect negotiates one connection for the transmission phase.
func connect(ctx context.Context, u URI, opts *DialOptions) (net.Conn, exportInfo, error) {
	g, err := dial(ctx, u, opts)
	if err != nil {
		return nil, exportInfo{}, err
	}
	info, err := g.choose(u.Export, opts)
	if err == nil {
		err = g.nc.SetDeadline(time.Time{})
	}
	if err != nil {
		g.nc.Close()
		return nil, exportInfo{}, err
	}
	return g.nc, info, nil
}

// greet exchanges the first bytes.
func (g *greeter) greet() error {
	var p [18]byte
	if _, err := io.ReadFull(g.nc, p[:]); err != nil {
		return fmt.Errorf("read the greeting: %w", noEOF(err))
	}
	if be.Uint64(p[:]) != magicServer || be.Uint64(p[8:]) != magicOption {
		return fmt.Errorf("the peer is not an NBD server of the fixed newstyle (greeting %x)", p)
	}
	flags := be.Uint16(p[16:])
	if flags&flagFixedNewstyle == 0 {
		return fmt.Errorf("the server does not speak fixed newstyle (handshake flags %#x)", flags)
	}
	reply := clientFixedNewstyle
	if flags&flagNoZeroes != 0 {
		reply |= clientNoZeroes
	}
	_, err := g.nc.Write(be.AppendUint32(nil, reply))
	return err
}

// startTLS switches to TLS or fails; it never goes on without.
func (g *greeter) startTLS(ctx context.Context, u URI, opts *DialOptions) error {
	if err := g.simpleOption(optStartTLS, nil); err != nil {
		return fmt.Errorf("the URI demands TLS: %w", err)
	}
	cfg, err := clientTLS(u, opts.TLS)
	if err != nil {
		return err
	}
	tc := tls.Client(socket.NewRecords(g.nc), cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	g.nc, g.secure = tc, true
	return nil
}

// clientTLS completes the caller's TLS configuration from the URI.
func clientTLS(u URI, base *tls.Config) (*tls.Config, error) {
	if base == nil {
		base = &tls.Config{}
	}
	cfg := hardened(base)
	if cfg.ServerName == "" {
		cfg.ServerName = u.ServerName
	}
	if u.Certificates == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(filepath.Join(u.Certificates, "ca-cert.pem"))
	if err != nil {
		return nil, fmt.Errorf("tls-certificates: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls-certificates: no certificate in %s", filepath.Join(u.Certificates, "ca-cert.pem"))
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(u.Certificates, "client-cert.pem"), filepath.Join(u.Certificates, "client-key.pem"))
	switch {
	case errors.Is(err, fs.ErrNotExist): // the server may not ask for one
	case err != nil:
		return nil, fmt.Errorf("tls-certificates: %w", err)
	default:
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// option sends an option and gives each reply but the last to item. An ACK ends it.
func (g *greeter) option(option uint32, data []byte, item func(typ uint32, data []byte) error) error {
	if _, err := g.nc.Write(appendOption(nil, option, data)); err != nil {
		return err
	}
	for range maxOptionReplies {
		var h [20]byte
		if _, err := io.ReadFull(g.nc, h[:]); err != nil {
			return fmt.Errorf("read the reply to option %d: %w", option, noEOF(err))
		}
		typ, n := be.Uint32(h[12:]), be.Uint32(h[16:])
		switch {
		case be.Uint64(h[:]) != magicOptionReply:
			return fmt.Errorf("bad magic %x in the reply to option %d", h[:8], option)
		case be.Uint32(h[8:]) != option:
			return fmt.Errorf("reply to option %d, expected option %d", be.Uint32(h[8:]), option)
		case n > maxOptionReplyBytes:
			return fmt.Errorf("reply of %d bytes to option %d, limit %d", n, option, maxOptionReplyBytes)
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(g.nc, p); err != nil {
			return fmt.Errorf("read the reply to option %d: %w", option, noEOF(err))
		}
		switch {
		case typ&repErrBit != 0:
			return &OptionError{Option: option, Reply: typ, Message: printable(p)}
		case typ == repAck:
			return nil
		}
		if err := item(typ, p); err != nil {
			return fmt.Errorf("option %d: %w", option, err)
		}
	}
	return fmt.Errorf("more than %d replies to option %d", maxOptionReplies, option)
}

const (
	// maxOptionReplies and maxOptionReplyBytes bound what a server can make a
	// client hold.
	maxOptionReplies    = 100_000
	maxOptionReplyBytes = 4 + 2*maxString + 64
)

// simpleOption sends an option that is answered by ACK alone.
func (g *greeter) simpleOption(option uint32, data []byte) error {
	return g.option(option, data, func(typ uint32, _ []byte) error {
		return fmt.Errorf("unexpected reply type %d", typ)
	})
}

// printable is a server's text without control characters.
func printable(p []byte) string {
	p = p[:min(len(p), maxString)]
	for i, b := range p {
		if b < ' ' || b == 0x7f {
			p[i] = ' '
		}
	}
	return string(p)
}

// choose negotiates replies and block status, and enters the transmission phase.
func (g *greeter) choose(export string, opts *DialOptions) (exportInfo, error) {
	info := exportInfo{minBlock: 1, preferred: preferredBlock, maxPayload: maxPayload}
	var err error
	try := func(option uint32, mode replyMode) {
		if err != nil || info.mode != modeSimple || opts.Simple {
			return
		}
		switch err = tolerate(g.simpleOption(option, nil)); {
		case err == nil:
			info.mode = mode
		case errors.Is(err, errRefused):
			err = nil
		}
	}
	if !opts.NoExtended {
		try(optExtendedHeaders, modeExtended)
	}
	try(optStructuredReply, modeStructured)
	if err == nil && info.mode != modeSimple {
		err = g.setContext(export, &info)
	}
	if err != nil {
		return info, err
	}
	return info, g.enter(export, &info)
}

// errRefused stands for an option that is refused without harm.
var errRefused = errors.New("refused")

// tolerate turns a refusal because the option is not known into errRefused.
func tolerate(err error) error {
	var refusal *OptionError
	if errors.As(err, &refusal) && refusal.Reply != repErrTLSReqd && refusal.Reply != repErrShutdown {
		return errRefused
	}
	return err
}

// setContext selects base:allocation.
func (g *greeter) setContext(export string, info *exportInfo) error {
	p := be.AppendUint32(nil, uint32(len(export)))
	p = append(p, export...)
	p = be.AppendUint32(p, 1)
	p = be.AppendUint32(p, uint32(len(contextAllocation)))
	p = append(p, contextAllocation...)
	err := tolerate(g.option(optSetMetaContext, p, func(typ uint32, data []byte) error {
		if typ != repMetaContext || len(data) < 4 || string(data[4:]) != contextAllocation {
			return fmt.Errorf("unexpected reply type %d of %d bytes", typ, len(data))
		}
		info.allocation, info.hasStatus = be.Uint32(data), true
		return nil
	}))
	if errors.Is(err, errRefused) {
		info.hasStatus = false
		return nil
	}
	return err
}

// enter sends GO.
func (g *greeter) enter(export string, info *exportInfo) error {
	p := be.AppendUint32(nil, uint32(len(export)))
	p = append(p, export...)
	p = be.AppendUint16(p, 1)
	p = be.AppendUint16(p, infoBlockSize)
	seen := false
	err := g.option(optGo, p, func(typ uint32, data []byte) error {
		if typ != repInfo || len(data) < 2 {
			return fmt.Errorf("unexpected reply type %d of %d bytes", typ, len(data))
		}
		switch be.Uint16(data) {
		case infoExport:
			if len(data) != 12 {
				return fmt.Errorf("export information of %d bytes", len(data))
			}
			size := be.Uint64(data[2:])
			if size > math.MaxInt64 {
				return fmt.Errorf("export of %d bytes, more than the %d that are possible", size, int64(math.MaxInt64))
			}
			info.size, info.flags, seen = int64(size), be.Uint16(data[10:]), true
		case infoBlockSize:
			if len(data) != 14 {
				return fmt.Errorf("block size information of %d bytes", len(data))
			}
			return info.setBlocks(be.Uint32(data[2:]), be.Uint32(data[6:]), be.Uint32(data[10:]))
		}
		return nil // other items may be ignored
	})
	if err == nil && (!seen || info.flags&flagHasFlags == 0) {
		return errors.New("the server accepts GO without saying what the export is")
	}
	return err
}

// setBlocks checks and takes block sizes.
func (i *exportInfo) setBlocks(minimum, preferred, maximum uint32) error {
	if minimum == 0 || minimum&(minimum-1) != 0 || minimum > 64<<10 || preferred < minimum || maximum < minimum {
		return fmt.Errorf("impossible block sizes %d, %d and %d", minimum, preferred, maximum)
	}
	i.minBlock, i.preferred, i.maxPayload = minimum, preferred, min(maximum, maxPayload)
	return nil
}

// ListedExport is one entry of a server's list.
type ListedExport struct{ Name, Description string }

// List asks the server of a URI for its exports; the URI's export name is ignored.
func List(ctx context.Context, uri string, opts DialOptions) ([]ListedExport, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	g, err := dial(ctx, u, &opts)
	if err != nil {
		return nil, fmt.Errorf("nbd: %s: %w", uri, err)
	}
	defer g.nc.Close()
	var list []ListedExport
	err = g.option(optList, nil, func(typ uint32, data []byte) error {
		c := cursor{p: data}
		name := c.string()
		if typ != repServer || c.bad {
			return fmt.Errorf("unexpected reply type %d of %d bytes", typ, len(data))
		}
		list = append(list, ListedExport{Name: name, Description: printable(c.p)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("nbd: %s: list: %w", uri, err)
	}
	g.nc.Write(appendOption(nil, optAbort, nil)) // a courtesy
	return list, nil
}
