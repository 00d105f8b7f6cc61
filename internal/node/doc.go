// Package node is the composition root of blkd: it builds a running node from a
// [Config].
//
// [Load] reads the configuration (flag, environment, file, default). [Start]
// locks the data directory, opens every volume in it, exports them over NBD and
// serves the control interface of package api; [Node.Stop] drains and releases
// everything in the opposite order. [Main] is the whole program around that:
// signals, systemd, log.
//
// Layout of a data directory:
//
//	lock           held by the running blkd; holds its process id
//	blkd.sock      control socket, mode 0600
//	volumes/NAME/  one store per volume (package blockdev)
package node
