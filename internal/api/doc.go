// Package api is the control interface of a node: the gRPC services of
// control.proto, how to reach them on a node's Unix socket ([Dial]), and how
// their errors carry the node and the next step ([Errorf], [Explain]).
//
// control.pb.go and control_grpc.pb.go are generated; run generate.sh after a
// change of control.proto.
package api
