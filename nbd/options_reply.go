package nbd

import (
	"fmt"

	"blkd/blockdev"
)

// reply queues a reply to an option.
func (h *handshake) reply(option, typ uint32, data []byte) {
	h.out = appendOptionReply(h.out, option, typ, data)
}

// refuse queues an error reply with a text for people.
func (h *handshake) refuse(option, typ uint32, format string, args ...any) {
	h.reply(option, typ, fmt.Appendf(nil, format, args...))
}

// answer handles one option. An error ends the connection.
func (h *handshake) answer(option uint32, data []byte) error {
	if h.srv.opts.TLSMode == TLSRequired && !h.secure && option != optStartTLS && option != optAbort {
		if option == optExportName {
			return fmt.Errorf("EXPORT_NAME without the required TLS")
		}
		h.refuse(option, repErrTLSReqd, "this server requires TLS; use nbds:// or send STARTTLS first")
		return nil
	}
	switch option {
	case optExportName:
		return h.exportName(string(data))
	case optAbort:
		h.reply(option, repAck, nil)
		if err := h.send(); err != nil {
			return err
		}
		return errAbort
	case optList:
		h.listExports(data)
	case optStartTLS:
		return h.wantTLS(data)
	case optInfo, optGo:
		h.info(option, data)
	case optStructuredReply:
		h.wantMode(option, data, modeStructured)
	case optExtendedHeaders:
		h.wantMode(option, data, modeExtended)
	case optListMetaContext, optSetMetaContext:
		h.metaContext(option, data)
	default:
		h.refuse(option, repErrUnsup, "option %d is not supported", option)
	}
	return nil
}

// exportName is the old way to choose an export; it cannot report an error.
func (h *handshake) exportName(name string) error {
	e, parameters := h.srv.find(name)
	if e == nil {
		return fmt.Errorf("EXPORT_NAME for %.64q, which does not exist", name)
	}
	dev, err := h.open(e, parameters)
	if err != nil {
		return fmt.Errorf("EXPORT_NAME for %.64q: %w", name, err)
	}
	h.out = be.AppendUint64(h.out, uint64(dev.Size()))
	h.out = be.AppendUint16(h.out, e.flags(h.agreed.mode, dev))
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, 124)...)
	}
	h.enter(e, dev, name)
	return nil
}

// open makes the device of this connection.
func (h *handshake) open(e *exportState, parameters string) (blockdev.Device, error) {
	if e.Open == nil {
		return e.Device, nil
	}
	return e.Open(Opening{Parameters: parameters, HangUp: h.line.hangUp})
}

// enter ends the negotiation with a chosen export.
func (h *handshake) enter(e *exportState, dev blockdev.Device, name string) {
	h.export, h.dev = e, dev
	h.agreed.allocation = h.agreed.allocation && h.agreed.contextExport == name
}

func (h *handshake) listExports(data []byte) {
	if len(data) != 0 {
		h.refuse(optList, repErrInvalid, "LIST takes no data, got %d bytes", len(data))
		return
	}
	for _, e := range h.srv.list() {
		item := be.AppendUint32(nil, uint32(len(e.Name)))
		item = append(item, e.Name...)
		h.reply(optList, repServer, append(item, e.Description...)[:min(4+len(e.Name)+len(e.Description), maxString+4)])
	}
	h.reply(optList, repAck, nil)
}

func (h *handshake) wantTLS(data []byte) error {
	switch {
	case len(data) != 0:
		h.refuse(optStartTLS, repErrInvalid, "STARTTLS takes no data, got %d bytes", len(data))
	case h.secure:
		h.refuse(optStartTLS, repErrInvalid, "TLS is on already")
	case h.srv.opts.TLSMode == TLSOff:
		h.refuse(optStartTLS, repErrPolicy, "TLS is not enabled on this server")
	default:
		return h.startTLS()
	}
	return nil
}

// wantMode handles the two options that change the form of replies.
func (h *handshake) wantMode(option uint32, data []byte, mode replyMode) {
	switch {
	case len(data) != 0:
		h.refuse(option, repErrInvalid, "option %d takes no data, got %d bytes", option, len(data))
	case h.agreed.mode == modeExtended && mode == modeStructured:
		h.refuse(option, repErrExtHdrReqd, "extended headers are on already")
	case h.agreed.mode == mode:
		h.refuse(option, repErrInvalid, "option %d is on already", option)
	default:
		h.agreed.mode = mode
		h.reply(option, repAck, nil)
	}
}

// info answers INFO and GO; GO with success ends the negotiation.
func (h *handshake) info(option uint32, data []byte) {
	c := cursor{p: data}
	name := c.string()
	var want uint32
	for n := c.uint16(); n > 0 && !c.bad; n-- {
		if item := c.uint16(); item < 32 {
			want |= 1 << item
		}
	}
	if !c.done() || len(name) > maxString {
		h.refuse(option, repErrInvalid, "malformed request for information: the lengths inside do not add up to %d bytes", len(data))
		return
	}
	e, parameters := h.srv.find(name)
	if e == nil {
		h.refuse(option, repErrUnknown, "no export is named %.256q; ask for the list", name)
		return
	}
	dev := e.Device
	if option == optGo {
		var err error
		if dev, err = h.open(e, parameters); err != nil {
			h.refuse(option, repErrPolicy, "%v", err)
			return
		}
	}
	p := be.AppendUint16(nil, infoExport)
	p = be.AppendUint64(p, uint64(dev.Size()))
	h.reply(option, repInfo, be.AppendUint16(p, e.flags(h.agreed.mode, dev)))
	p = be.AppendUint16(nil, infoBlockSize)
	p = be.AppendUint32(p, 1)
	p = be.AppendUint32(p, preferredBlock)
	h.reply(option, repInfo, be.AppendUint32(p, maxPayload))
	if want&(1<<infoName) != 0 {
		h.reply(option, repInfo, append(be.AppendUint16(nil, infoName), e.Name...))
	}
	if want&(1<<infoDescription) != 0 && e.Description != "" {
		h.reply(option, repInfo, append(be.AppendUint16(nil, infoDescription), e.Description...))
	}
	h.reply(option, repAck, nil)
	if option == optGo {
		h.enter(e, dev, name)
	}
}

// metaContext lists or selects metadata contexts. There is one, base:allocation.
func (h *handshake) metaContext(option uint32, data []byte) {
	if option == optSetMetaContext {
		h.agreed.allocation = false // also when this one fails
	}
	c := cursor{p: data}
	name := c.string()
	queries := c.uint32()
	match := queries == 0 && option == optListMetaContext
	for ; queries > 0 && !c.bad; queries-- {
		q := c.string()
		match = match || q == contextAllocation || q == "base:" && option == optListMetaContext
	}
	switch {
	case !c.done() || len(name) > maxString:
		h.refuse(option, repErrInvalid, "malformed metadata query: the lengths inside do not add up to %d bytes", len(data))
		return
	case h.agreed.mode == modeSimple:
		h.refuse(option, repErrInvalid, "metadata needs structured replies; negotiate them first")
		return
	}
	if e, _ := h.srv.find(name); e == nil {
		h.refuse(option, repErrUnknown, "no export is named %.256q; ask for the list", name)
		return
	}
	if match {
		id := uint32(0)
		if option == optSetMetaContext {
			id, h.agreed.allocation, h.agreed.contextExport = contextAllocationID, true, name
		}
		h.reply(option, repMetaContext, append(be.AppendUint32(nil, id), contextAllocation...))
	}
	h.reply(option, repAck, nil)
}
