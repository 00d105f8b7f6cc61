package main

import (
	"context"
	"crypto/rand"
	"os"

	"google.golang.org/grpc"

	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// known is a node that is recorded and never starts. Draining it changes its
// record and nothing else.
const known = "known"

// blkdSide is three nodes of blkd.
type blkdSide struct {
	cluster *clustertest.Cluster
	list    []member
}

func startBlkd(ctx context.Context, program, dir string) (*blkdSide, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	cluster, err := clustertest.New(clustertest.Config{Blkd: program, Dir: dir, Names: []string{"n1", "n2", "n3"}})
	if err != nil {
		return nil, err
	}
	s := &blkdSide{cluster: cluster}
	for _, n := range cluster.Nodes {
		conn, err := api.DialNode(n.Address, nil)
		if err != nil {
			return nil, err
		}
		s.list = append(s.list, &blkdMember{n, conn})
	}
	err = cluster.Start(ctx)
	if err == nil {
		_, err = api.NewClusterServiceClient(cluster.Nodes[0].Conn()).AddNode(ctx, &api.AddNodeRequest{
			Request: newRequest(), Node: &metapb.AddNode{Name: known, Address: "127.0.0.1:1"}})
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *blkdSide) members() []member                { return s.list }
func (s *blkdSide) settle(ctx context.Context) error { return s.cluster.Settle(ctx) }

func (s *blkdSide) leader(ctx context.Context) (int, error) {
	leader, err := s.cluster.Leader(ctx)
	for i, n := range s.cluster.Nodes {
		if n == leader {
			return i, err
		}
	}
	return 0, err
}

func (s *blkdSide) close() {
	for _, m := range s.list {
		m.(*blkdMember).conn.Close() //nolint:errcheck // nothing depends on it any more
	}
	s.cluster.Close()
}

type blkdMember struct {
	node *clustertest.Node
	conn *grpc.ClientConn
}

func (m *blkdMember) change(ctx context.Context, i int) error {
	_, err := api.NewClusterServiceClient(m.conn).DrainNode(ctx, &api.DrainNodeRequest{
		Request: newRequest(), Node: &metapb.DrainNode{Name: known, Undo: i%2 == 0}})
	return err
}

func (m *blkdMember) kill()        { m.node.Kill() }
func (m *blkdMember) start() error { return m.node.Start() }

func newRequest() *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: "clusterbench"}
}
