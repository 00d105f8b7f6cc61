package metadata

import (
	"fmt"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// textLimit bounds what askers say of themselves: it is kept for long.
const textLimit = 1000 // bytes

// Apply does one command of the log, or refuses it: then nothing has changed but
// that the answer is remembered. The answer never depends on anything but the
// commands applied so far. A request that was answered before is answered alike
// and not done again. Two commands are not remembered, because doing them twice
// is doing them once: ReportNode and ReportMark.
//
// Bad commands are answered with CODE_INVALID. Apply panics only when it would
// break an invariant of the records itself.
func (s *State) Apply(index uint64, c *metapb.Command) *metapb.Result {
	if len(c.GetRequest()) != len(requestID{}) {
		return answer(index, nil, invalid("a request id has %d bytes, not %d", len(requestID{}), len(c.GetRequest())))
	}
	id := requestID(c.Request)
	if old := s.applied.answer(id); old != nil && !mutant.On(mutant.StateApplyTwice) {
		return old
	}
	a := &apply{s: s, c: c, index: index}
	r, no := a.do()
	if no != nil && a.changed {
		panic(fmt.Sprintf("metadata: index %d was refused (%v) after it had changed the state", index, no))
	}
	r = answer(index, r, no)
	if remembered(c) {
		s.applied.add(id, encode(r))
	}
	return r
}

// remembered tells whether a command must not be done twice.
func remembered(c *metapb.Command) bool {
	switch c.Op.(type) {
	case *metapb.Command_ReportNode, *metapb.Command_ReportMark:
		return false
	}
	return true
}

func answer(index uint64, r *metapb.Result, no *Refusal) *metapb.Result {
	if no != nil {
		r = &metapb.Result{Code: no.Code, Text: no.Text, Advice: no.Advice, Volume: no.volume}
	}
	r.Index = index
	return r
}

// apply is one command on its way through the state. An operation first looks,
// and refuses before its first change.
type apply struct {
	s       *State
	c       *metapb.Command
	index   uint64
	changed bool
}

func (a *apply) do() (*metapb.Result, *Refusal) {
	for _, text := range []string{a.c.By, a.c.Node, a.c.Reason} {
		if len(text) > textLimit {
			return nil, invalid("%.20q… is longer than %d bytes", text, textLimit)
		}
	}
	switch op := a.c.Op.(type) {
	case *metapb.Command_FoundCluster:
		return a.foundCluster(op.FoundCluster)
	case *metapb.Command_RestoreCluster:
		return a.restoreCluster(op.RestoreCluster)
	}
	if a.s.cluster == 0 {
		return nil, refused("there is no cluster yet").advise("start all nodes of its --cluster list")
	}
	switch op := a.c.Op.(type) {
	case *metapb.Command_SetClusterVersion:
		return a.setClusterVersion(op.SetClusterVersion)
	case *metapb.Command_AddNode:
		return a.addNode(op.AddNode)
	case *metapb.Command_RegisterNode:
		return a.registerNode(op.RegisterNode)
	case *metapb.Command_ReportNode:
		return a.reportNode(op.ReportNode)
	case *metapb.Command_ObserveNode:
		return a.observeNode(op.ObserveNode)
	case *metapb.Command_DrainNode:
		return a.drainNode(op.DrainNode)
	case *metapb.Command_ReplaceNode:
		return a.replaceNode(op.ReplaceNode)
	case *metapb.Command_RemoveNode:
		return a.removeNode(op.RemoveNode)
	case *metapb.Command_FenceNode:
		return a.fenceNode(op.FenceNode)
	}
	return a.doVolume()
}

func (a *apply) doVolume() (*metapb.Result, *Refusal) {
	switch op := a.c.Op.(type) {
	case *metapb.Command_CreateVolume:
		return a.createVolume(op.CreateVolume)
	case *metapb.Command_ResizeVolume:
		return a.resizeVolume(op.ResizeVolume)
	case *metapb.Command_DeleteVolume:
		return a.deleteVolume(op.DeleteVolume)
	case *metapb.Command_ChangeVolume:
		return a.changeVolume(op.ChangeVolume)
	case *metapb.Command_Promote:
		return a.promote(op.Promote)
	case *metapb.Command_SetMembers:
		return a.setMembers(op.SetMembers)
	case *metapb.Command_Attach:
		return a.attach(op.Attach)
	case *metapb.Command_SetService:
		return a.setService(op.SetService)
	case *metapb.Command_ReportMark:
		return a.reportMark(op.ReportMark)
	case *metapb.Command_Recover:
		return a.recover(op.Recover)
	case *metapb.Command_CertifyPromotion:
		return a.certifyPromotion(op.CertifyPromotion)
	}
	return nil, invalid("this build does not know the command").advise("update blkd on all nodes, then ask again")
}

// putNode stores a changed or new record and tells of it. Old is nil for a new one.
func (a *apply) putNode(old, now *metapb.Node) *metapb.Result {
	must(checkNode(a.s, now))
	a.changed = true
	a.s.nodes.put(now)
	a.tell(typeNode, now.Name, nodeFields(old), nodeFields(now))
	return &metapb.Result{Node: now}
}

// editNode replaces a node's record by a copy that f changed. A copy that is
// equal makes no event.
func (a *apply) editNode(old *metapb.Node, f func(n *metapb.Node)) *metapb.Result {
	now := proto.CloneOf(old)
	f(now)
	return a.putNode(old, now)
}

// editVolume makes the next record of a volume: a copy with the next number,
// changed by f. What goes into its history.
func (a *apply) editVolume(old *metapb.Volume, what string, f func(v *metapb.Volume)) *metapb.Result {
	now := proto.CloneOf(old)
	now.Number++
	f(now)
	return a.putVolume(old, now, what)
}

func (a *apply) putVolume(old, now *metapb.Volume, what string) *metapb.Result {
	must(checkVolume(a.s, now))
	if old != nil {
		must(checkStep(old, now))
	}
	a.changed = true
	a.s.volumes.put(now)
	a.enter(now, what)
	a.tell(typeVolume, now.Name, volumeFields(old), volumeFields(now))
	return &metapb.Result{Volume: now}
}

// markVolume replaces the mark alone, without number, history and event.
func (a *apply) markVolume(old *metapb.Volume, mark *metapb.Mark) *metapb.Result {
	now := proto.CloneOf(old)
	now.Mark = mark
	must(checkVolume(a.s, now))
	a.changed = true
	a.s.volumes.put(now)
	return &metapb.Result{Volume: now}
}

// enter writes into a volume's history.
func (a *apply) enter(v *metapb.Volume, what string) {
	a.s.remember(v, &metapb.HistoryEntry{
		Generation: v.Generation, Number: v.Number, What: what,
		By: a.c.By, Node: a.c.Node, Reason: a.c.Reason, Time: a.c.Time, Index: a.index,
	})
}

// tell makes the event of one change, if it is one.
func (a *apply) tell(kind, name string, before, after []field) {
	action := actionChange
	switch {
	case len(before) == 0:
		action = actionCreate
	case len(after) == 0:
		action = actionDestroy
	}
	changes := diff(before, after)
	if len(changes) == 0 {
		return
	}
	a.s.events.add(&metapb.Event{
		Time: a.c.Time, Type: kind, Action: action, Name: name, Changes: changes,
		By: a.c.By, Reason: a.c.Reason, Index: a.index,
	})
}

// node finds the node that a command names.
func (a *apply) node(name string) (*metapb.Node, *Refusal) {
	if n := a.s.Node(name); n != nil {
		return n, nil
	}
	return nil, notFound("there is no node %.80q", name).advise("blkctl node list")
}

// volume finds the volume that a command names.
func (a *apply) volume(name string) (*metapb.Volume, *Refusal) {
	if v := a.s.Volume(name); v != nil {
		return v, nil
	}
	return nil, notFound("there is no volume %.80q", name).advise("blkctl volume list")
}

// compare finds a volume and compares its record with the one that the asker
// read: every change of who may write is a compare-and-set (I10).
func (a *apply) compare(name string, generation, number uint64) (*metapb.Volume, *Refusal) {
	v, no := a.volume(name)
	if no != nil {
		return nil, no
	}
	sameGeneration := v.Generation == generation || mutant.On(mutant.StateAnyGeneration)
	sameNumber := v.Number == number || mutant.On(mutant.StateAnyNumber)
	if sameGeneration && sameNumber {
		return v, nil
	}
	text := fmt.Sprintf("volume %s is at generation %d, record %d, not at %d, %d as asked", name, v.Generation, v.Number, generation, number)
	if e := lastEntry(a.s.historyByID(v.Id)); e != nil {
		text += fmt.Sprintf("; last change: %s, by %s", e.What, e.By)
	}
	no = conflict("%s", text).advise("read it again: blkctl history %s", name)
	no.volume = v
	return nil, no
}
