//go:build race

package blockdev

// raceDetector: pools forget things at random under it, so allocations cannot be
// counted.
const raceDetector = true
