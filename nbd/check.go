package nbd

import "fmt"

// commandFlags are the flags each command may carry. FUA is a flag that any command
// may have once the server advertises it.
var commandFlags = [numCommands]uint16{
	cmdRead:        cmdFlagFUA | cmdFlagDF,
	cmdWrite:       cmdFlagFUA | cmdFlagPayloadLen,
	cmdFlush:       cmdFlagFUA,
	cmdTrim:        cmdFlagFUA,
	cmdCache:       cmdFlagFUA,
	cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero,
	cmdBlockStatus: cmdFlagFUA | cmdFlagReqOne | cmdFlagPayloadLen,
}

// check decides whether a request can be given to the device. An errno of zero means
// yes; otherwise text explains it. A BLOCK_STATUS with payload gets the length that
// the payload says.
func (c *conn) check(w *wireRequest, payload []byte) (errno uint32, text string) {
	if w.cmd >= numCommands {
		return errnoInval, fmt.Sprintf("unknown command %d", w.cmd)
	}
	allowed := commandFlags[w.cmd]
	if c.mode != modeExtended {
		allowed &^= cmdFlagPayloadLen
	}
	if c.mode == modeSimple {
		allowed &^= cmdFlagDF
	}
	if bad := w.flags &^ allowed; bad != 0 {
		return errnoInval, fmt.Sprintf("flags %#x are not valid for %s", bad, commandNames[w.cmd])
	}
	switch w.cmd {
	case cmdFlush: // offset and length mean nothing
		w.length = 0
		return 0, ""
	case cmdWrite, cmdTrim, cmdWriteZeroes:
		if c.readOnly || c.dev.ReadOnly() {
			return errnoPerm, "the export is read-only"
		}
	case cmdRead:
		if w.length > maxPayload {
			return errnoInval, fmt.Sprintf("read of %d bytes, limit %d", w.length, maxPayload)
		}
	case cmdBlockStatus:
		if errno, text = c.checkStatus(w, payload); errno != 0 {
			return errno, text
		}
	}
	size := uint64(max(c.dev.Size(), 0))
	if w.offset > size || w.length > size-w.offset {
		return rangeErrno(w.cmd), fmt.Sprintf("%s of %d bytes at offset %d is beyond the end, %d", commandNames[w.cmd], w.length, w.offset, size)
	}
	return 0, ""
}

// checkStatus checks what is particular to BLOCK_STATUS.
func (c *conn) checkStatus(w *wireRequest, payload []byte) (errno uint32, text string) {
	if !c.allocation {
		return errnoInval, "no metadata context was negotiated for this export"
	}
	if w.flags&cmdFlagPayloadLen != 0 {
		p := cursor{p: payload}
		w.length = p.uint64()
		if len(p.p) == 0 || len(p.p)%4 != 0 {
			return errnoInval, "the payload is not a length and context ids"
		}
		for len(p.p) > 0 {
			if id := p.uint32(); id != contextAllocationID {
				return errnoInval, fmt.Sprintf("metadata context %d was not negotiated", id)
			}
		}
	}
	if w.length == 0 {
		return errnoInval, "block status of no bytes"
	}
	return 0, ""
}
