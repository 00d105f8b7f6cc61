// Package kernel drives the NBD client of the Linux kernel over generic netlink: it
// makes, moves and removes /dev/nbdN. It needs the capability CAP_SYS_ADMIN.
//
// The settings are those that let a device outlive its server. Without a link
// requests wait, for a day at most, and when the device gets a new one, what was
// under way is sent again within a second:
//
//   - the timeout of the driver is sent as 0: a late reply never kills the link;
//   - the dead-connection timeout is a day: without it I/O fails as soon as the link
//     dies;
//   - queue/io_timeout is a second: requests that were sent over a link that died are
//     looked at again only when this timer fires;
//   - the last close does not drop the link.
package kernel
