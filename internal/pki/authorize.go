package pki

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// FromContext tells who calls a gRPC service. ok is false for a caller without a
// certificate: one on a connection without TLS, such as a Unix socket.
func FromContext(ctx context.Context) (id Identity, ok bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Identity{}, false
	}
	id, err := PeerIdentity(info.State)
	return id, err == nil
}

// Policy decides whether id may call a method ("/package.Service/Method"): nil or
// the reason why not. The zero Identity is a caller without a certificate.
type Policy func(fullMethod string, id Identity) error

// Authorizer makes the interceptors that ask the policy before each call. What it
// refuses ends with PermissionDenied, or Unauthenticated without a certificate,
// unless its error is a gRPC status of its own.
func Authorizer(may Policy) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := authorize(ctx, info.FullMethod, may); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
	stream := func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := authorize(s.Context(), info.FullMethod, may); err != nil {
			return err
		}
		return next(srv, s)
	}
	return unary, stream
}

func authorize(ctx context.Context, method string, may Policy) error {
	id, known := FromContext(ctx)
	err := may(method, id)
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.PermissionDenied
	if !known {
		code = codes.Unauthenticated
	}
	return status.Errorf(code, "%s: %v", method, err)
}
