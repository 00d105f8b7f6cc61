// Package fio measures NBD servers: the job files beside this source, one per
// claim, run against one or several servers in turns (A B, B A, …), by the fio
// program or by this project's own batching client.
//
// What is measured, and how:
//
//   - Rates, throughput and latencies come from the load generator: fio's JSON, or
//     the histogram of [EngineBlkd].
//   - CPU time per request is that of the server's processes only, read from
//     /proc/PID/stat before and after the run: it stays meaningful on a machine that
//     is too small or too busy for the rate to be.
//   - Bytes written per byte come from /proc/PID/io, where the kernel counts a page when
//     it becomes dirty: a page written twice before it reaches the disk counts once, and
//     a small write into a large page counts as the whole page. With Config.Disk the
//     bytes that reach the disk are counted too, those of other processes included.
//   - Everything is measured in rounds; what is reported is the median, the spread,
//     and the ratio of runs of the same round against the first server.
//
// [Run] does it; [Report.Table], [Report.JSON] and [Report.HTML] show it; [Command]
// is the user's way in.
package fio
