// Package arch holds no code, only tests that keep the whole module in shape:
//
//   - packages import only what lies below them (imports_test.go has the order);
//   - the code that the simulator and the crash tests run reads no clock, opens
//     no file and no connection except through internal/env;
//   - every package and every exported name is documented;
//   - no file grows without end, and no note of unfinished work stays behind;
//   - links, paths and make targets that the documentation names exist.
//
// A test that stands in the way of a good change is changed with it: the tables
// at the top of the files are there to be edited, in the same commit and with a
// reason.
package arch
