package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"blkd/deploy/test/clustertest"
)

// etcdSide is three members of etcd.
type etcdSide struct {
	list []*etcdMember
}

func startEtcd(ctx context.Context, program, dir string) (*etcdSide, error) {
	s := &etcdSide{}
	var initial []string
	for i := range 3 {
		m, peer, err := newEtcdMember(program, dir, fmt.Sprintf("e%d", i+1))
		if err != nil {
			return nil, err
		}
		s.list = append(s.list, m)
		initial = append(initial, m.Name+"="+peer)
	}
	for _, m := range s.list {
		m.Args = append(m.Args, "--initial-cluster", strings.Join(initial, ","))
		if err := m.Start(); err != nil {
			s.close()
			return nil, err
		}
	}
	if err := s.settle(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// newEtcdMember prepares a member; peer is its URL for the others.
func newEtcdMember(program, dir, name string) (m *etcdMember, peer string, err error) {
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", err
	}
	clients, err := clustertest.FreeAddress()
	if err != nil {
		return nil, "", err
	}
	peers, err := clustertest.FreeAddress()
	if err != nil {
		return nil, "", err
	}
	peer = "http://" + peers
	m = &etcdMember{Process: clustertest.Process{Name: name, LogFile: filepath.Join(dir, "log"), Args: []string{program,
		"--name", name, "--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", "http://" + clients, "--advertise-client-urls", "http://" + clients,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer}}}
	m.conn, err = grpc.NewClient("passthrough:///"+clients, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	return m, peer, err
}

func (s *etcdSide) members() []member {
	list := make([]member, len(s.list))
	for i, m := range s.list {
		list[i] = m
	}
	return list
}

func (s *etcdSide) leader(ctx context.Context) (int, error) {
	for i, m := range s.list {
		if st, err := m.status(ctx); err == nil && st.member == st.leader {
			return i, nil
		}
	}
	return 0, errors.New("no member leads")
}

func (s *etcdSide) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, m := range s.list {
		for {
			attempt, cancel := context.WithTimeout(ctx, time.Second)
			err := m.change(attempt, 0)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w\n%s", ctx.Err(), err, m.Log())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

func (s *etcdSide) close() {
	for _, m := range s.list {
		m.Kill()
		m.conn.Close() //nolint:errcheck // nothing depends on it any more
	}
}

// etcdMember speaks etcd's protocol, version 3, as far as it is needed.
type etcdMember struct {
	clustertest.Process
	conn *grpc.ClientConn
}

func (m *etcdMember) kill()        { m.Kill() }
func (m *etcdMember) start() error { return m.Start() }

// value is what is put.
var value = []byte(strings.Repeat("blkd", 64))

func (m *etcdMember) change(ctx context.Context, i int) error {
	put := protowire.AppendTag(nil, 1, protowire.BytesType)
	put = protowire.AppendBytes(put, fmt.Appendf(nil, "bench/%d", i%2))
	put = protowire.AppendTag(put, 2, protowire.BytesType)
	put = protowire.AppendBytes(put, value)
	var answer []byte
	return m.conn.Invoke(ctx, "/etcdserverpb.KV/Put", put, &answer)
}

type etcdStatus struct{ member, leader uint64 }

// status asks which member this is and which one leads.
func (m *etcdMember) status(ctx context.Context) (st etcdStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var answer []byte
	if err := m.conn.Invoke(ctx, "/etcdserverpb.Maintenance/Status", []byte{}, &answer); err != nil {
		return st, err
	}
	header, _, err := field(answer, 1)
	if err != nil {
		return st, err
	}
	if _, st.member, err = field(header, 2); err != nil {
		return st, err
	}
	_, st.leader, err = field(answer, 4)
	return st, err
}

// field finds a field of a protobuf message: bytes or a number.
func field(message []byte, number protowire.Number) (content []byte, value uint64, err error) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return nil, 0, protowire.ParseError(size)
		}
		message = message[size:]
		end := protowire.ConsumeFieldValue(n, kind, message)
		if end < 0 {
			return nil, 0, protowire.ParseError(end)
		}
		if n == number && kind == protowire.BytesType {
			content, _ = protowire.ConsumeBytes(message)
			return content, 0, nil
		}
		if n == number && kind == protowire.VarintType {
			value, _ = protowire.ConsumeVarint(message)
			return nil, value, nil
		}
		message = message[end:]
	}
	return nil, 0, nil // its zero value is not sent
}

// rawCodec takes messages as they are encoded.
type rawCodec struct{}

// Marshal implements encoding.Codec.
func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

// Unmarshal implements encoding.Codec.
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// Name implements encoding.Codec.
func (rawCodec) Name() string { return "proto" }
