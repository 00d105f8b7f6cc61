// Package pki is the trust inside one cluster: who a node, an operator or an NBD
// client is, proven by certificates of the cluster's own CA.
//
// # Certificates
//
// A cluster has one CA; its subject holds the cluster's name and a random id.
// Every certificate says who its holder is in one URI:
//
//	blkd://3f9a1c0d2b7e4a55/node/n1      a node; also what its clients verify
//	blkd://3f9a1c0d2b7e4a55/admin/alice  an operator, for blkctl
//	blkd://3f9a1c0d2b7e4a55/client/db1   a client of NBD
//
// Peers verify that [Identity], not the address they dialed; DNS and IP names
// are there for NBD clients, which verify nothing else. [Authority] is the
// directory that "blkctl pki" works in.
//
// # Connections
//
// [Reloader] holds what one process presents and trusts. A node makes one:
//
//	certs, err := pki.NewReloader(files)            // pki.FilesIn finds them in a directory
//	err = certs.Self().Check(pki.Node, config.Name) // nobody else's files
//	…
//	creds := certs.ServerCredentials(func(peer net.Addr, err error) {
//		log.Warn("refused a connection", "from", peer, "error", err)
//	})
//	unary, stream := pki.Authorizer(func(method string, id pki.Identity) error {
//		return id.Check(pki.Node, "") // for the services that only nodes may call
//	})
//	server := grpc.NewServer(grpc.Creds(creds), grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
//	…
//	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(certs.ClientCredentials("n2")))
//
// A service reads who calls with [FromContext]. Without gRPC, [Reloader.Accept]
// and [Reloader.Connect] make a TLS connection of a plain one. On SIGHUP the node
// calls [Reloader.Reload]; connections that are open stay as they are, those made
// from then on use the new files. A node that runs without TLS asks [RequireTLS]
// first and uses [PlainServerCredentials] and [PlainClientCredentials], which say
// what is wrong if the other side speaks TLS.
//
// # Refusals
//
// Whatever is refused is an [*Error]: its Reason is one of the Err variables, its
// text names both sides, its Next the command that helps. In TLS 1.3 a client has
// finished its handshake before the server has looked at its certificate, so its
// refusal reaches it at the first read; that error is an [*Error] too.
package pki
