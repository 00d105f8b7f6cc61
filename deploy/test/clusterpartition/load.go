package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

const (
	// spared is a node to which nothing is done; it may come to vote in the place
	// of one that failed too often.
	spared = "n4"

	records  = 5                     // that the clients use
	callTime = 2 * time.Second       // for one attempt
	giveUp   = 30 * time.Second      // on an answer
	think    = 20 * time.Millisecond // between two operations of a client, about
)

// load is clients that use the same few records of nodes that never start.
type load struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup
	conns  []*grpc.ClientConn
	began  time.Time
	ports  atomic.Int64 // given out: each record that is made or replaced has one of its own

	mu         sync.Mutex
	operations []operation
	err        error // what no fault explains
}

func startLoad(ctx context.Context, conns []*grpc.ClientConn, clients int, seed uint64) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, conns: conns, began: time.Now()}
	for i := range clients {
		rng := mathrand.New(mathrand.NewPCG(seed, uint64(i+1)))
		l.wait.Go(func() {
			for ctx.Err() == nil {
				l.operate(ctx, i, rng)
				sleep(ctx, time.Duration(rng.Int64N(2*int64(think)))) //nolint:errcheck // seen by the loop
			}
		})
	}
	return l
}

// stop ends the clients and returns what they did.
func (l *load) stop() []operation {
	l.cancel()
	l.wait.Wait()
	return l.operations
}

// operate does one operation and notes it.
func (l *load) operate(ctx context.Context, client int, rng *mathrand.Rand) {
	op := operation{client: client, record: fmt.Sprintf("r%d", rng.IntN(records)), node: rng.IntN(len(l.conns))}
	switch k := rng.IntN(10); {
	case k < 5:
		op.kind = show
	case k < 7:
		op.kind = add
	case k < 9:
		op.kind = replace
	default:
		op.kind = remove
	}
	if op.kind == add || op.kind == replace {
		op.port = l.ports.Add(1)
	}
	request := newRequest()
	op.call = time.Since(l.began)
	for node, deadline := op.node, time.Now().Add(giveUp); ; node++ {
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
		seen, err := l.ask(attempt, node, op, request)
		cancel()
		op.result, op.seen = outcome(err), seen
		unknown := op.result == nothing
		if !unknown || op.kind == show || time.Now().After(deadline) {
			break // a read without an answer did not happen
		}
		sleep(context.Background(), 10*time.Millisecond) //nolint:errcheck // never ends
	}
	op.end = time.Since(l.began)
	l.note(op)
}

// ask makes one attempt, at one node.
func (l *load) ask(ctx context.Context, node int, op operation, request *api.RequestInfo) (seen int64, err error) {
	c := api.NewClusterServiceClient(l.conns[node%len(l.conns)])
	switch op.kind {
	case show:
		n, err := c.ShowNode(ctx, &api.ShowNodeRequest{Name: op.record})
		if err != nil {
			return 0, err
		}
		return portOf(n.Record.Address)
	case add:
		_, err = c.AddNode(ctx, &api.AddNodeRequest{Request: request, Node: &metapb.AddNode{Name: op.record, Address: address(op.port)}})
	case replace:
		_, err = c.ReplaceNode(ctx, &api.ReplaceNodeRequest{Request: request, Node: &metapb.ReplaceNode{Name: op.record, Address: address(op.port)}})
	case remove:
		_, err = c.RemoveNode(ctx, &api.RemoveNodeRequest{Request: request, Node: &metapb.RemoveNode{Name: op.record}})
	}
	return 0, err
}

// address is where nobody is: ports begin anew on the next address of a network
// for documentation.
func address(port int64) string {
	return fmt.Sprintf("198.51.100.%d:%d", 1+port/ports, 1+port%ports)
}

const ports = 50000

// portOf is the inverse of address.
func portOf(address string) (int64, error) {
	var host, port int64
	_, err := fmt.Sscanf(address, "198.51.100.%d:%d", &host, &port)
	return (host-1)*ports + port - 1, err
}

// outcome is what an answer says.
func outcome(err error) result {
	switch status.Code(err) {
	case codes.OK:
		return done
	case codes.NotFound:
		return absent
	case codes.AlreadyExists:
		return present
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return nothing
	default:
		return result(err.Error())
	}
}

func (l *load) note(op operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch op.result {
	case done, absent, present:
	case nothing:
		if op.kind == show {
			return
		}
	default:
		l.err = errors.Join(l.err, fmt.Errorf("%v: %s", op, op.result))
		return
	}
	l.operations = append(l.operations, op)
}

func newRequest() *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: "clusterpartition"}
}
