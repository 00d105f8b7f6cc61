package api

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// TestReconnect: a node whose connections fail is tried again and again, without
// the pauses that gRPC makes by itself: with those, eight attempts take 40 s.
func TestReconnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	attempts := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			attempts <- struct{}{}
		}
	}()
	conn, err := DialNode(l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go NewVolumeServiceClient(conn).List(ctx, &ListVolumesRequest{}, grpc.WaitForReady(true)) //nolint:errcheck // it never succeeds
	for i := range 8 {
		select {
		case <-attempts:
		case <-ctx.Done():
			t.Fatalf("only %d attempts", i)
		}
	}
}
