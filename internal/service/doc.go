// Package service runs what belongs to a volume (a file system, an address, a database)
// on the node that holds the volume, and on no other.
//
// Where it shall run is recorded in the metadata quorum, beside the volume's attachment.
// Each node that may run it has a [Manager], which follows the record:
//
//	          wanted here, and the holder before has given it up, is down, or is late
//	  idle ──────────────────────────────────────────────────────► attaching
//	   ▲                                                                │ holds the volume
//	   │ nothing runs: the volume is given up                           ▼
//	stopping ◄─── wanted elsewhere · a step has failed · told to ── starting, running
//	   ▲ └──◄──── lost: another client holds the volume ────────────────┘
//	   │   a step does not stop: again, until it does
//	   └─────────► stuck: the volume is not given up
//
// The volume's attachment is the fence: a Manager starts nothing before it holds the
// volume, and what another node still writes is refused from then on, whether that node
// has noticed or not. The other way, a Manager gives a volume up only when everything
// that it has started has stopped. Steps start in order and stop in reverse.
//
// The number of the attachment is in the environment of every step and in a file, so that
// what is started by others can refuse to run under an old one.
package service
