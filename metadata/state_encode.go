package metadata

import (
	"fmt"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// stateFormat is the version of the encoding of [metapb.State]; docs/formats/metadata.md.
const stateFormat = 1

// Encode returns the state as a snapshot carries it. Two states that applied the
// same give the same bytes (in the same build; another one may order map keys or
// unknown fields in another way).
func (s *State) Encode() []byte {
	p := s.Info()
	p.Nodes, p.Volumes, p.Histories = s.nodes.rows, s.volumes.rows, s.histories
	p.Events, p.NextEvent = s.events.kept, s.events.last+1
	p.Applied = make([]*metapb.Applied, len(s.applied.order))
	for i, id := range s.applied.order {
		p.Applied[i] = &metapb.Applied{Request: id[:], Result: s.applied.results[id]}
	}
	return encode(p)
}

// encode is deterministic.
func encode(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("metadata: encoding a %T: %v", m, err)) // text is UTF-8: it was decoded once
	}
	return b
}

// DecodeState is the inverse of Encode. It refuses what no sequence of commands
// can have led to.
func DecodeState(b []byte) (*State, error) {
	p := new(metapb.State)
	if err := proto.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("decode the metadata state: %w", err)
	}
	if p.Format != stateFormat {
		return nil, fmt.Errorf("decode the metadata state: its format is %d, this build reads format %d; use a build that is as new as the one that wrote it", p.Format, stateFormat)
	}
	s := &State{
		cluster: p.Cluster, name: p.Name, version: p.Version, created: p.Created,
		nextID: p.NextId, nextVolume: p.NextVolume,
		nodes: table[*metapb.Node]{p.Nodes}, volumes: table[*metapb.Volume]{p.Volumes}, histories: p.Histories,
		voters: p.Voters, learners: p.Learners, retired: p.Retired,
		events: eventLog{kept: p.Events, last: p.NextEvent - 1},
	}
	for _, a := range p.Applied {
		if !s.applied.takes(a) {
			return nil, fmt.Errorf("decode the metadata state: the answer to request %x is damaged, or one too many", a.Request)
		}
		s.applied.add(requestID(a.Request), a.Result)
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("decode the metadata state: %w", err)
	}
	return s, nil
}
