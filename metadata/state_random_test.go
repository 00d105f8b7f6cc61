package metadata

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var stateSeeds = flag.Int("state.seeds", 40, "how many seeded runs of random commands TestStateRandom does")

// TestStateRandom applies random commands to two replicas, of which one is
// replaced by its decoded snapshot at random moments, and checks each step by what
// the rules of the records say, independently of how Apply keeps them.
func TestStateRandom(t *testing.T) {
	for seed := range uint64(*stateSeeds) {
		if err := stateSeed(seed, 250); err != nil {
			t.Fatal(err)
		}
	}
}

// stateSeed runs one seed.
func stateSeed(seed uint64, steps int) error {
	r := newStateRun(seed)
	for range steps {
		c := r.gen.command()
		if err := r.step(c); err != nil {
			return fmt.Errorf("seed %d, index %d, %v: %w", seed, r.index, c, err)
		}
	}
	return nil
}

// stateRun is two replicas and what has been seen of them.
type stateRun struct {
	rand      *rand.Rand
	gen       *commandGen
	a, b      *State
	index     uint64
	events    uint64
	primaries map[string]string // of each volume id and generation
	entries   map[uint64]uint64 // of each volume's history, ever
	done      []*metapb.Command
	answers   [][]byte
}

func newStateRun(seed uint64) *stateRun {
	r := rand.New(rand.NewPCG(seed, 6))
	run := &stateRun{rand: r, a: NewState(), b: NewState(), primaries: map[string]string{}, entries: map[uint64]uint64{}}
	run.gen = &commandGen{rand: r, s: run.a}
	return run
}

// step applies a command to both replicas and checks what it did.
func (r *stateRun) step(c *metapb.Command) error {
	r.index++
	before := withoutAnswers(r.a)
	old := *r.a // records are replaced, never written into
	old.nodes.rows, old.volumes.rows = r.a.Nodes(), r.a.Volumes()
	if r.rand.IntN(8) == 0 {
		if err := r.reload(); err != nil {
			return err
		}
	}
	got, other := r.a.Apply(r.index, c), r.b.Apply(r.index, proto.CloneOf(c))
	if got.Code != metapb.Code_CODE_OK && !bytes.Equal(before, withoutAnswers(r.a)) {
		return fmt.Errorf("it was refused (%s), but the state has changed", got.Text)
	}
	if !proto.Equal(got, other) {
		return fmt.Errorf("two replicas answer %v and %v", got, other)
	}
	if err := checkAnswer(&old, r.a, c, got); err != nil {
		return err
	}
	if err := r.checkVolumes(&old); err != nil {
		return err
	}
	if r.rand.IntN(10) == 0 {
		conf := r.gen.conf()
		r.a.ApplyConf(r.index, conf)
		r.b.ApplyConf(r.index, conf)
	}
	if err := r.checkEvents(); err != nil {
		return err
	}
	return r.repeat(c, got)
}

// reload compares the replicas to the byte and replaces one by what a snapshot of
// it says.
func (r *stateRun) reload() error {
	b := r.a.Encode()
	if !bytes.Equal(b, r.b.Encode()) {
		return errors.New("two replicas differ")
	}
	decoded, err := DecodeState(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, decoded.Encode()) {
		return errors.New("decoding and encoding give another state")
	}
	r.b = decoded
	return nil
}

// repeat applies an earlier command again.
func (r *stateRun) repeat(c *metapb.Command, answer *metapb.Result) error {
	if !remembered(c) {
		return nil
	}
	r.done, r.answers = append(r.done, c), append(r.answers, encode(answer))
	if r.rand.IntN(3) > 0 {
		return nil
	}
	i := r.rand.IntN(len(r.done))
	before := withoutAnswers(r.a)
	again := r.a.Apply(r.index+1000, r.done[i])
	if !bytes.Equal(encode(again), r.answers[i]) || !bytes.Equal(before, withoutAnswers(r.a)) {
		return fmt.Errorf("request %s was done again, or answered in another way: %v", r.done[i].Request, again)
	}
	return nil
}

// checkVolumes compares all records before and after one command.
func (r *stateRun) checkVolumes(old *State) error {
	if err := r.a.validate(); err != nil {
		return err
	}
	for _, v := range r.a.Volumes() {
		h := r.a.History(v.Name)
		if last := lastEntry(h); last.Number != v.Number || last.Generation != v.Generation {
			return fmt.Errorf("volume %s is at %d, %d; its history ends at %v", v.Name, v.Generation, v.Number, last)
		}
		was := old.Volume(v.Name)
		if was != nil && was.Id == v.Id && was.Number != v.Number {
			if err := checkStep(was, v); err != nil {
				return err
			}
			if v.Number != was.Number+1 && v.Number < was.Number+minLift {
				return fmt.Errorf("volume %s: record %d follows record %d", v.Name, v.Number, was.Number)
			}
		}
		key := fmt.Sprint(v.Id, "/", v.Generation)
		primary := fmt.Sprint(v.Primary, v.PrimaryIncarnation, v.Lineage)
		if r.primaries[key] != "" && r.primaries[key] != primary {
			return fmt.Errorf("volume %s: generation %d has two primaries: %s and %s", v.Name, v.Generation, r.primaries[key], primary)
		}
		r.primaries[key] = primary
	}
	for _, h := range r.a.histories {
		total := uint64(len(h.Entries)) + h.Dropped
		if total < r.entries[h.Volume] || uint64(len(h.Entries)) < min(total, historyKept) {
			return fmt.Errorf("the history of volume %d has lost entries: %d and %d dropped of %d", h.Volume, len(h.Entries), h.Dropped, r.entries[h.Volume])
		}
		r.entries[h.Volume] = total
	}
	return nil
}

// checkEvents checks that events have no gaps.
func (r *stateRun) checkEvents() error {
	events, gap := r.a.Events(r.events)
	if gap {
		return fmt.Errorf("events after %d are missing", r.events)
	}
	for _, e := range events {
		if e.Seq != r.events+1 || len(e.Changes) == 0 {
			return fmt.Errorf("event %v follows event %d", e, r.events)
		}
		r.events = e.Seq
	}
	if r.events != r.a.LastEvent() {
		return fmt.Errorf("events end at %d, not %d", r.events, r.a.LastEvent())
	}
	return nil
}

// checkAnswer checks the rules that tie one command to what became of it.
func checkAnswer(old, now *State, c *metapb.Command, r *metapb.Result) error {
	if err := checkCompared(old, c, r); err != nil || r.Code != metapb.Code_CODE_OK {
		return err
	}
	switch op := c.Op.(type) {
	case *metapb.Command_Promote:
		v := old.Volume(op.Promote.Volume)
		i := memberIndex(v.Members, op.Promote.To)
		if i < 0 || op.Promote.Incarnation == 0 || op.Promote.Incarnation != old.Node(op.Promote.To).Incarnation {
			return errors.New("a node was promoted that is no member, or not in that run")
		}
		if m := v.Members[i]; !op.Promote.Force && (m.State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE || m.Amnesiac || !m.Log) {
			return errors.New("a member was promoted that may lack something")
		}
		if r.Volume.Generation != v.Generation+1 {
			return errors.New("a promotion made no new generation")
		}
	case *metapb.Command_SetMembers:
		return checkMembersAnswer(old.Volume(op.SetMembers.Volume), r.Volume)
	case *metapb.Command_Attach:
		a, b := old.Volume(op.Attach.Volume).Attachment, r.Volume.Attachment
		raised := b.Number == a.Number+1
		if must := op.Attach.Takeover || a.Holder != b.Holder; raised != must || b.Number < a.Number {
			return fmt.Errorf("attachment %v became %v", a, b)
		}
		if fenced := b.Since == b.Number; raised && fenced != (a.Holder != b.Holder || a.Holder == "" || metapb.Differ(a.Boot, b.Boot)) {
			return fmt.Errorf("attachment %v became %v: who is fenced?", a, b)
		}
	case *metapb.Command_RegisterNode:
		return checkRegistered(old, now, op.RegisterNode)
	case *metapb.Command_ObserveNode:
		if n := old.Node(op.ObserveNode.Name); n.Incarnation != op.ObserveNode.Incarnation {
			return errors.New("a verdict on another run was recorded")
		}
	case *metapb.Command_ReportNode:
		if n := old.Node(op.ReportNode.Name); n.Incarnation != op.ReportNode.Incarnation {
			return errors.New("a report of another run was recorded")
		}
	case *metapb.Command_RemoveNode:
		return checkRemoved(old, op.RemoveNode.Name)
	case *metapb.Command_RestoreCluster:
		for _, v := range now.Volumes() {
			was := old.Volume(v.Name)
			if v.Generation < was.Generation+minLift || v.Attachment.Number < was.Attachment.Number+minLift || v.Lineage == was.Lineage || tallyOf(v.Members).sound > 0 {
				return fmt.Errorf("volume %s is believed after a restore: %v", v.Name, v)
			}
		}
	}
	return nil
}

// checkCompared checks compare-and-set.
func checkCompared(old *State, c *metapb.Command, r *metapb.Result) error {
	op, ok := opOf(c).(interface {
		GetGeneration() uint64
		GetNumber() uint64
	})
	if !ok || r.Code != metapb.Code_CODE_OK {
		return nil
	}
	name := ""
	switch op := op.(type) {
	case interface{ GetVolume() string }:
		name = op.GetVolume()
	case interface{ GetName() string }:
		name = op.GetName()
	}
	if v := old.Volume(name); v.Generation != op.GetGeneration() || v.Number != op.GetNumber() {
		return fmt.Errorf("done at %d, %d though it was asked at %d, %d", v.Generation, v.Number, op.GetGeneration(), op.GetNumber())
	}
	return nil
}

// opOf is the operation of a command.
func opOf(c *metapb.Command) any {
	m := c.ProtoReflect()
	f := m.WhichOneof(m.Descriptor().Oneofs().ByName("op"))
	if f == nil {
		return nil
	}
	return m.Get(f).Message().Interface()
}

// checkMembersAnswer checks a change of members that was made.
func checkMembersAnswer(old, now *metapb.Volume) error {
	before, after := tallyOf(old.Members), tallyOf(now.Members)
	if old.Generation != now.Generation || now.Primary != old.Primary {
		return errors.New("a change of members changed the primary")
	}
	if after.copies < before.copies && after.copies < int(now.MinCopies) {
		return fmt.Errorf("members fell to %d, below min-copies %d", after.copies, now.MinCopies)
	}
	for _, m := range now.Members {
		i := memberIndex(old.Members, m.Node)
		if was := i >= 0 && sound(old.Members[i]); sound(m) && !was {
			p := memberIndex(old.Members, old.Primary)
			if p < 0 || !sound(old.Members[p]) || old.Members[p].Incarnation != old.PrimaryIncarnation {
				return fmt.Errorf("member %s counts, though no primary can have asked", m.Node)
			}
		}
	}
	return nil
}

// checkRegistered checks what a registration carried over: the opposite of "lost".
func checkRegistered(old, now *State, c *metapb.RegisterNode) error {
	n := old.Node(c.Name)
	if n.Incarnation == c.Incarnation {
		return nil
	}
	lost := func(v *metapb.Volume) bool {
		proven := n.Incarnation != 0 && c.Previous == n.Incarnation && !c.IoError
		rebooted := c.Boot == "" || c.Boot != n.Boot || c.Boot != c.PreviousBoot
		return !proven || rebooted && !c.Clean && v.Durability != metapb.Durability_DURABILITY_WRITE
	}
	for _, v := range old.Volumes() {
		i := memberIndex(v.Members, c.Name)
		if i < 0 {
			continue
		}
		before, after := v.Members[i], now.Volume(v.Name).Members[i]
		switch {
		case after.Incarnation != c.Incarnation || after.Node != before.Node:
			return fmt.Errorf("volume %s has not taken over the run: %v", v.Name, after)
		case sound(after) && (!sound(before) || lost(v)):
			return fmt.Errorf("volume %s: member %s counts, though it may have lost something", v.Name, c.Name)
		case sound(before) && !lost(v) && !sound(after):
			return fmt.Errorf("volume %s: member %s counts no more, though nothing is lost", v.Name, c.Name)
		case after.State == metapb.ReplicaState_REPLICA_STATE_SYNCING:
			return fmt.Errorf("volume %s: %s goes on copying", v.Name, c.Name)
		}
	}
	return nil
}

// checkRemoved tries every ack quorum that a write can have had before a node was
// removed: a member that stays must show it to every promotion.
func checkRemoved(old *State, name string) error {
	for _, v := range old.Volumes() {
		i := memberIndex(v.Members, name)
		if i < 0 || !counts(v.Members[i]) {
			continue
		}
		var logs []*metapb.Member
		for _, m := range v.Members {
			if counts(m) && m.Log {
				logs = append(logs, m)
			}
		}
		left := slices.DeleteFunc(slices.Clone(logs), func(m *metapb.Member) bool { return m.Node == name })
		for acked := range uint(1) << len(logs) {
			if !isQuorum(logs, acked, ackQuorum(v.Ack, len(logs))) {
				continue
			}
			for sealed := range uint(1) << len(left) {
				if isQuorum(left, sealed, sealQuorum(v.Ack, len(left))) && allSound(left, sealed) && !meet(logs, acked, left, sealed) {
					return fmt.Errorf("volume %s: a write acknowledged by %b of %s is not seen by %b without %s", v.Name, acked, membersText(logs), sealed, name)
				}
			}
		}
		if t := tallyOf(left); recoverable(v, t) && !recoverable(v, tallyOf(logs)) {
			return fmt.Errorf("volume %s could be sealed before %s was removed, and must be recovered now: %s", v.Name, name, membersText(left))
		}
	}
	return nil
}

func isQuorum(list []*metapb.Member, set uint, need int) bool {
	n := 0
	for i := range list {
		n += int(set >> i & 1)
	}
	return n == need
}

func allSound(list []*metapb.Member, set uint) bool {
	for i, m := range list {
		if set>>i&1 == 1 && !sound(m) {
			return false
		}
	}
	return true
}

// meet tells whether a member is in both sets.
func meet(a []*metapb.Member, inA uint, b []*metapb.Member, inB uint) bool {
	for i, m := range b {
		j := slices.IndexFunc(a, func(o *metapb.Member) bool { return o.Node == m.Node })
		if inB>>i&1 == 1 && inA>>j&1 == 1 {
			return true
		}
	}
	return false
}

// TestHistoryIsKept makes more changes than a history keeps.
func TestHistoryIsKept(t *testing.T) {
	s := stateOf(t, "found_cluster cluster=7 founders=n1", "register_node name=n1 disk=1001 incarnation=11 address=n1:7400 version_min=1 version_max=1",
		"create_volume name=v size_bytes=1G")
	total := 1
	for i := range 4500 {
		holder := fmt.Sprint("c", i)
		if r := applyLine(t, s, "attach volume=v takeover=true holder="+holder+" @"); r.Code != metapb.Code_CODE_OK {
			t.Fatal(r)
		}
		total++
		h := s.History("v")
		if n := len(h.Entries); n < min(total, 1000) || uint64(n)+h.Dropped != uint64(total) || h.Entries[n-1].Number != uint64(total) {
			t.Fatalf("after %d changes %d entries are kept, %d dropped", total, n, h.Dropped)
		}
	}
}

// TestHistoriesOfDeletedVolumes keeps those of the last hundred.
func TestHistoriesOfDeletedVolumes(t *testing.T) {
	s := stateOf(t, "found_cluster cluster=7 founders=n1", "register_node name=n1 disk=1001 incarnation=11 address=n1:7400 version_min=1 version_max=1",
		"create_volume name=keep size_bytes=1G")
	for i := range 130 {
		name := fmt.Sprint("v", i)
		applyLine(t, s, "create_volume size_bytes=1G name="+name)
		applyLine(t, s, "delete_volume name="+name)
	}
	if len(s.histories) != historyDeleted+1 || s.History("v29") != nil || !s.History("v30").Deleted || s.History("keep") == nil {
		t.Errorf("%d histories", len(s.histories))
	}
	if _, err := DecodeState(s.Encode()); err != nil {
		t.Error(err)
	}
}

// TestRequestsAreForgottenInOrder keeps the answers to the last 16,384.
func TestRequestsAreForgottenInOrder(t *testing.T) {
	s := stateOf(t, "found_cluster cluster=7 founders=n1")
	first := &metapb.Command{Request: requestOf(99999), Op: &metapb.Command_AddNode{AddNode: &metapb.AddNode{Name: "n2", Address: "n2:1"}}}
	s.Apply(2, first)
	for i := range uint64(requestsKept) {
		if got := s.Apply(100+i, first); got.Code != metapb.Code_CODE_OK {
			t.Fatalf("after %d other requests: %v", i, got)
		}
		s.Apply(3+i, &metapb.Command{Request: requestOf(2 + i), Op: &metapb.Command_DeleteVolume{DeleteVolume: &metapb.DeleteVolume{Name: "v"}}})
	}
	if got := s.Apply(100000, first); got.Code != metapb.Code_CODE_EXISTS {
		t.Errorf("a request older than what is kept: %v", got)
	}
	if n := len(s.applied.order); n != requestsKept || len(s.applied.results) != n {
		t.Errorf("%d answers in order, %d in all", n, len(s.applied.results))
	}
}

// TestEventsTellGaps covers followers that are too far behind or ahead.
func TestEventsTellGaps(t *testing.T) {
	var l eventLog
	for range eventsKept + 10 {
		l.add(&metapb.Event{})
	}
	for _, c := range []struct {
		after uint64
		want  int
		gap   bool
	}{{0, eventsKept, true}, {9, eventsKept, true}, {10, eventsKept, false}, {eventsKept + 9, 1, false}, {eventsKept + 10, 0, false}, {eventsKept + 11, 0, true}} {
		if events, gap := l.since(c.after); len(events) != c.want || gap != c.gap {
			t.Errorf("after %d: %d events, gap %v", c.after, len(events), gap)
		}
	}
}

// stateOf applies commands to a new state; each has to succeed.
func stateOf(t testing.TB, lines ...string) *State {
	t.Helper()
	s := NewState()
	for _, line := range lines {
		if r := applyLine(t, s, line); r.Code != metapb.Code_CODE_OK {
			t.Fatalf("%s: %s", line, r.Text)
		}
	}
	return s
}

// applyLine applies the command of a line as the next entry.
func applyLine(t testing.TB, s *State, line string) *metapb.Result {
	t.Helper()
	c, err := parseCommand(s, line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	n := uint64(len(s.applied.order)) + 1
	if c.Request == nil {
		c.Request = requestOf(n)
	}
	return s.Apply(n, c)
}

// TestRestoreIsTheFirstCommand restores what random commands made of a cluster.
func TestRestoreIsTheFirstCommand(t *testing.T) {
	for seed := range uint64(8) {
		r := newStateRun(seed)
		for range 200 {
			if err := r.step(r.gen.command()); err != nil {
				t.Fatal(err)
			}
		}
		old, err := DecodeState(r.a.Encode())
		if err != nil {
			t.Fatal(err)
		}
		c := &metapb.Command{Request: bytes.Repeat([]byte{0xff}, 16), Op: &metapb.Command_RestoreCluster{RestoreCluster: &metapb.RestoreCluster{
			Cluster: 99, Lift: minLift + r.rand.Uint64N(1000), Founders: []*metapb.Founder{
				{Name: "n1", Id: 1, Address: "n1:1", Disk: 1, Voter: true}, {Name: "n8", Id: 2, Address: "n8:1", Disk: 2, Voter: true}, {Name: "n2", Id: 3, Address: "n2:1", Disk: 3, Voter: true},
			}}}}
		got := r.a.Apply(1, c)
		if got.Code != metapb.Code_CODE_OK {
			t.Fatal(got)
		}
		if err := checkAnswer(old, r.a, c, got); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := r.checkEvents(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := r.checkVolumes(old); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		again, err := DecodeState(r.a.Encode())
		if err != nil || !bytes.Equal(again.Encode(), r.a.Encode()) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		r.a.ApplyConf(1, &raftpb.ConfState{Voters: []uint64{1, 2, 3}})
		if n := r.a.LastEvent(); n != r.events {
			t.Errorf("the founders' configuration is not that of the restored state: %v", r.a.Info())
		}
	}
}
