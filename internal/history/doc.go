// Package history checks that what clients were told of the blocks of a volume can
// be true: strict linearizability of each block.
//
// Every block must behave as if each read and each write of it had happened at one
// moment between its call and its answer. A write that was not answered has happened
// by its limit, the moment when a later generation serves, or never does. Ordinary
// linearizability has no such limit, and takes a write of an old primary that comes
// to light hours later for good.
//
// A [Recorder] takes down what clients ask and are told; its Check, and [Check] for
// one block, take O(n log n) for n operations. That is possible because each write
// of a block writes another value, so that it is known which write a read has seen
// (Gibbons and Korach, Testing Shared Memories, 1997).
package history
