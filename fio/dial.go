package fio

import (
	"context"

	"blkd/blockdev"
	"blkd/nbd"
)

// dialNBD connects to an export with one connection of this project's client.
func dialNBD(ctx context.Context, uri string) (blockdev.Device, error) {
	return nbd.Dial(ctx, uri, nbd.DialOptions{})
}
