// Package attach keeps a volume attached to this host: it holds the volume's
// attachment in the metadata quorum, makes a /dev/nbdN of the kernel's NBD client, and
// moves that to wherever the volume is served. While nobody serves it the device
// waits; it never fails, unless another client has taken the volume over.
//
//	           attach, renew                 link dead, or the volume moved
//	(start) ──────────────► connected ───────────────────────────────────► moving
//	                            ▲   new session, new sockets to the primary   │
//	                            └──────────────────────────────────────────────┘
//	        refused: another client holds the volume ──► fenced: the device is removed
//
// Each move begins a new session: the quorum gives it the next number, and what is
// left of the session before in sockets and queues, on whichever node, cannot act any
// more. Only then is anything sent again.
//
// The kernel holds the sockets, so a device outlives its [Agent]; the next one takes
// it over.
package attach
