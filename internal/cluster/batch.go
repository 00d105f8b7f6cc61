package cluster

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
)

const (
	batchBytes   = 1 << 20   // of one RaftBatch, about; well below what gRPC takes by default
	messageBytes = 256 << 20 // of one Raft message; a snapshot of the state is one
)

// pack gathers messages into batches of about batchBytes, in order. A message
// that is larger than that is cut into parts.
func pack(route *api.Route, messages []*raftpb.Message, send func(*api.RaftBatch) error) error {
	batch, size := &api.RaftBatch{Route: route}, 0
	flush := func() error {
		if len(batch.Messages) == 0 {
			return nil
		}
		err := send(batch)
		batch, size = &api.RaftBatch{Route: route}, 0
		return err
	}
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode a Raft message: %w", err)
		}
		if size+len(b) > batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		for len(b) > batchBytes {
			part := &api.RaftBatch{Route: route, Messages: [][]byte{b[:batchBytes]}, More: true}
			if err := send(part); err != nil {
				return err
			}
			b = b[batchBytes:]
		}
		batch.Messages = append(batch.Messages, b)
		size += len(b)
	}
	return flush()
}

// unpacker puts messages together again.
type unpacker struct{ part []byte }

// unpack returns the messages that a batch completes. An error means that the
// sender is broken or hostile; the stream has to end.
func (u *unpacker) unpack(batch *api.RaftBatch) ([]*raftpb.Message, error) {
	var messages []*raftpb.Message
	for i, b := range batch.Messages {
		if len(u.part)+len(b) > messageBytes {
			return nil, fmt.Errorf("a Raft message has more than %d bytes", messageBytes)
		}
		if len(u.part) > 0 {
			b = append(u.part, b...)
			u.part = nil
		}
		if batch.More && i == len(batch.Messages)-1 {
			u.part = b
			break
		}
		m := new(raftpb.Message)
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, fmt.Errorf("a Raft message cannot be read: %w", err)
		}
		messages = append(messages, m)
	}
	return messages, nil
}
