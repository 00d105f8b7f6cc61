// Package blockdev is the data path of one machine: the Device interface that
// everything in blkd speaks, and the devices that need nothing but this machine.
//
// Start with device.go: a [Device] takes batches of [Request] values and answers
// each one once, maybe later, maybe from another goroutine. [ReadAt], [WriteAt],
// [Flush] and friends wrap that for callers that prefer to wait.
//
// Devices here: [Memory], a thin RAM disk; [Fault], which injects delays, errors,
// torn writes and bit rot by rule; and [Store], one replica of a volume on disk
// (a log that is poured into an image; see store.go and docs/formats/store.md).
// Each of them passes the suite in package blockdev/devicetest.
package blockdev
