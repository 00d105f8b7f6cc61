package metadata

import (
	"fmt"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// requestsKept is how many answers are kept: a request that is repeated after so
// many others is taken for a new one.
const requestsKept = 16384

// requestID is what makes two attempts the same request.
type requestID [16]byte

// requestLog keeps the answers to the last requests, in the order of application.
type requestLog struct {
	order   []requestID
	results map[requestID][]byte // encoded
}

// answer returns the answer that a request got; nil if it is new.
func (l *requestLog) answer(id requestID) *metapb.Result {
	b, ok := l.results[id]
	if !ok {
		return nil
	}
	r := new(metapb.Result)
	if err := proto.Unmarshal(b, r); err != nil {
		panic(fmt.Sprintf("metadata: the stored answer to request %x: %v", id, err)) // checked when it came in
	}
	return r
}

// takes tells whether an answer that was stored can be the next one.
func (l *requestLog) takes(a *metapb.Applied) bool {
	if len(a.Request) != len(requestID{}) || len(l.order) == requestsKept {
		return false
	}
	_, known := l.results[requestID(a.Request)]
	return !known && proto.Unmarshal(a.Result, new(metapb.Result)) == nil
}

func (l *requestLog) add(id requestID, result []byte) {
	if l.results == nil {
		l.results = make(map[requestID][]byte)
	}
	l.results[id] = result
	l.order = append(l.order, id)
	for len(l.order) > requestsKept {
		delete(l.results, l.order[0])
		l.order = l.order[1:]
	}
}

// Answer is the answer that a request got, if it is remembered; nil: it is new.
func (s *State) Answer(request []byte) *metapb.Result {
	if len(request) != len(requestID{}) {
		return nil
	}
	return s.applied.answer(requestID(request))
}
