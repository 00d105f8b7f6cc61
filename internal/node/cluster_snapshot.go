package node

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// snapshotPart is how much of a backup goes into one message, in bytes.
const snapshotPart = 256 << 10

// SaveSnapshot implements api.ClusterService.
func (s *clusterService) SaveSnapshot(_ *api.SaveSnapshotRequest, out grpc.ServerStreamingServer[api.SnapshotPart]) error {
	var encoded []byte
	b := &metapb.Backup{Format: 1, Time: time.Now().UnixNano()}
	// Everything that was applied before the read is in the state.
	if err := s.read(out.Context(), func(state *metadata.State) {
		encoded, b.Index = state.Encode(), lastIndex(state)
	}); err != nil {
		return err
	}
	file, err := encodeBackup(b, encoded)
	if err != nil {
		return s.node.refuse(codes.Internal, "", "%v", err)
	}
	part := &api.SnapshotPart{Index: b.Index, Time: timestamppb.New(time.Unix(0, b.Time))}
	for len(file) > 0 {
		n := min(len(file), snapshotPart)
		part.Data, file = file[:n], file[n:]
		if err := out.Send(part); err != nil {
			return err
		}
		part = &api.SnapshotPart{}
	}
	return nil
}

// lastIndex is that of the log entry that made the newest event.
func lastIndex(s *metadata.State) uint64 {
	events, _ := s.Events(s.LastEvent() - 1)
	if len(events) == 0 {
		return 0
	}
	return events[len(events)-1].Index
}

func encodeBackup(b *metapb.Backup, state []byte) ([]byte, error) {
	b.State = new(metapb.State)
	if err := proto.Unmarshal(state, b.State); err != nil {
		return nil, fmt.Errorf("read the state again: %w", err)
	}
	return api.EncodeBackup(b)
}
