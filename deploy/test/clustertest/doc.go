// Package clustertest runs clusters of real blkd processes for the programs beside
// it, which torment and measure them from outside.
//
// The processes are to die with the thread that started them, so a program calls
// runtime.LockOSThread first and starts and ends nodes from its main goroutine only.
package clustertest
