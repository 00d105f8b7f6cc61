// Package nbd speaks the Network Block Device protocol: a server that exports any
// [blockdev.Device], and a client that is one.
//
// # Server
//
//	srv := nbd.NewServer(nbd.Options{})
//	srv.SetExport(nbd.Export{Name: "demo", Device: dev})
//	err := srv.Serve(listener)
//
// A connection first negotiates (handshake.go, options_reply.go) and then transmits
// (conn.go). What a connection costs, and which goroutine does what:
//
//   - One reader goroutine per connection reads into a large buffer, parses every
//     complete request in place (parse.go) and gives them to the device as one batch.
//   - Done may run on any goroutine. It only pushes the request on the connection's
//     lock-free reply queue. Whoever holds the connection's writer role (reply.go)
//     gathers the queue and sends it with one system call: the reader after Submit
//     returns, else the goroutine that called Done for the last request in flight,
//     else the connection's writer goroutine.
//   - Requests, buffers and replies are pooled; nothing is allocated per request.
//
// Memory is bounded by counting the buffers a connection holds (buffer.go): when its
// budget or the server's is spent, its reader stops reading.
//
// # Client
//
// [Dial] takes an NBD URI and returns a [Client], which implements
// [blockdev.Device]: batches become one writev, replies are read many at a time.
//
// All bytes of the protocol are encoded and decoded in proto.go; docs/formats/nbd.md
// says which parts of the protocol are spoken.
package nbd
