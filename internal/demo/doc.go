// Package demo runs a cluster of real blkd processes on this machine's loopback,
// without root or setup: [Run] torments it and shows what its clients notice, and
// [Keep] keeps it up for whoever wants to try something.
package demo
