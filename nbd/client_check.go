package nbd

import (
	"fmt"

	"blkd/blockdev"
)

// check reports why a request cannot be sent.
func (c *Client) check(r *blockdev.Request) error {
	if c.done.Load() {
		return blockdev.ErrClosed
	}
	if err := r.Check(c.info.size, c.ReadOnly()); err != nil {
		return err
	}
	if r.Op != blockdev.OpFlush {
		if m := int64(c.info.minBlock) - 1; m != 0 && (r.Off|r.Len)&m != 0 && r.Off+r.Len != c.info.size {
			return fmt.Errorf("%w: %s of %d bytes at offset %d is not aligned to the server's minimum block of %d bytes", blockdev.ErrInvalid, r.Op, r.Len, r.Off, c.info.minBlock)
		}
		if int64(len(r.Data)) > int64(c.info.maxPayload) {
			return fmt.Errorf("%w: %s of %d bytes, the server takes %d at most", blockdev.ErrInvalid, r.Op, r.Len, c.info.maxPayload)
		}
	}
	var need uint16
	switch r.Op {
	case blockdev.OpFlush:
		need = flagSendFlush
	case blockdev.OpTrim, blockdev.OpWriteZeroes:
		need = flagSendWriteZeroes
	case blockdev.OpCache:
		need = flagSendCache
	}
	if r.Flags&blockdev.FastZero != 0 && r.Op == blockdev.OpWriteZeroes {
		need |= flagSendFastZero
	}
	if missing := need &^ c.info.flags; missing != 0 {
		return fmt.Errorf("%w: the server does not offer what %s needs (transmission flags %#x)", blockdev.ErrNotSupported, r.Op, missing)
	}
	if r.Flags&blockdev.FUA != 0 && r.Op.Mutates() && c.info.flags&(flagSendFUA|flagSendFlush) == 0 {
		return fmt.Errorf("%w: the server offers neither FUA nor FLUSH, so nothing can be made durable", blockdev.ErrNotSupported)
	}
	return nil
}

// clientCommand is the command and its flags for a request that was checked.
func clientCommand(r *blockdev.Request) (cmd, flags uint16) {
	if r.Flags&blockdev.FUA != 0 && r.Op.Mutates() {
		flags = cmdFlagFUA
	}
	switch r.Op {
	case blockdev.OpRead:
		return cmdRead, 0
	case blockdev.OpWrite:
		return cmdWrite, flags
	case blockdev.OpFlush:
		return cmdFlush, 0
	case blockdev.OpCache:
		return cmdCache, 0
	case blockdev.OpWriteZeroes:
		if r.Flags&blockdev.NoHole != 0 {
			flags |= cmdFlagNoHole
		}
		if r.Flags&blockdev.FastZero != 0 {
			flags |= cmdFlagFastZero
		}
	}
	return cmdWriteZeroes, flags
}
