package metadata

import (
	"fmt"
	"math/rand/v2"

	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// commandGen makes random commands that mostly fit a state: few names, and what is
// compared is mostly what is recorded.
type commandGen struct {
	rand *rand.Rand
	s    *State
	n    uint64 // requests
	runs uint64 // incarnations
}

// command is the next one.
func (g *commandGen) command() *metapb.Command {
	g.n++
	c := &metapb.Command{Request: requestOf(g.n), By: pick(g.rand, "op", "steward", "node n1"), Reason: pick(g.rand, "", "why"), Time: int64(g.n) * 1e6}
	if g.s.cluster == 0 {
		c.Op = &metapb.Command_FoundCluster{FoundCluster: g.found()}
		return c
	}
	switch n := g.rand.IntN(100); {
	case n < 25:
		g.nodeOp(c, n)
	case n < 40:
		c.Op = &metapb.Command_RegisterNode{RegisterNode: g.register()}
	default:
		g.volumeOp(c, n)
	}
	return c
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// often is true in nine of ten cases.
func (g *commandGen) often() bool { return g.rand.IntN(10) > 0 }

// seldom is true in one of ten cases.
func (g *commandGen) seldom() bool { return !g.often() }

func (g *commandGen) found() *metapb.FoundCluster {
	c := &metapb.FoundCluster{Cluster: 7}
	for i := range 2 + g.rand.IntN(4) {
		c.Founders = append(c.Founders, &metapb.Founder{Name: fmt.Sprint("n", i+1), Id: uint64(i + 1), Address: fmt.Sprintf("n%d:1", i+1), Disk: uint64(1001 + i), Voter: i < 3})
	}
	return c
}

func (g *commandGen) nodeName() string { return fmt.Sprint("n", 1+g.rand.IntN(7)) }

func (g *commandGen) volumeName() string { return pick(g.rand, "a", "b", "c", "d", "e") }

// run is mostly the registered one.
func (g *commandGen) run(node string) uint64 {
	if n := g.s.Node(node); n != nil && g.often() {
		return n.Incarnation
	}
	return g.rand.Uint64N(g.runs + 2)
}

func (g *commandGen) nodeOp(c *metapb.Command, n int) {
	name := g.nodeName()
	switch {
	case n < 5:
		c.Op = &metapb.Command_AddNode{AddNode: &metapb.AddNode{Name: name, Address: name + ":1", Witness: g.seldom()}}
	case n < 12:
		c.Op = &metapb.Command_ObserveNode{ObserveNode: &metapb.ObserveNode{Name: name, Incarnation: g.run(name), Health: metapb.Health(g.rand.IntN(6)), Text: "x", HeldUntil: pick[int64](g.rand, 0, 0, 5)}}
	case n < 16:
		c.Op = &metapb.Command_ReportNode{ReportNode: &metapb.ReportNode{Name: name, Incarnation: g.run(name), CapacityBytes: 100, FreeBytes: g.rand.Int64N(102)}}
	case n < 18:
		c.Op = &metapb.Command_DrainNode{DrainNode: &metapb.DrainNode{Name: name, Undo: g.rand.IntN(2) == 0}}
	case n < 20:
		c.Op = &metapb.Command_ReplaceNode{ReplaceNode: &metapb.ReplaceNode{Name: name, Address: pick(g.rand, "", "x:1")}}
	case n < 24:
		c.Op = &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Name: name, Force: g.often()}}
	default:
		c.Op = &metapb.Command_SetClusterVersion{SetClusterVersion: &metapb.SetClusterVersion{Version: uint32(g.rand.IntN(4))}}
	}
}

func (g *commandGen) register() *metapb.RegisterNode {
	name := g.nodeName()
	n := g.s.Node(name)
	g.runs++
	c := &metapb.RegisterNode{
		Name: name, Incarnation: g.runs, Address: name + ":1", Clean: g.rand.IntN(2) == 0, IoError: g.seldom(),
		Boot: pick(g.rand, "b1", "b2"), PreviousBoot: n.GetBoot(), VersionMin: 1, VersionMax: uint32(1 + g.rand.IntN(3)),
		CapacityBytes: 100, FreeBytes: g.rand.Int64N(101), Disk: n.GetDisk(), Previous: n.GetIncarnation(), Witness: n.GetWitness(),
		Labels: map[string]string{"zone": pick(g.rand, "a", "b"), "rack": pick(g.rand, "1", "2")},
	}
	if c.Disk == 0 {
		c.Disk = 2000 + g.runs
	}
	if g.seldom() {
		c.Previous, c.Tried = g.rand.Uint64N(g.runs), []uint64{n.GetIncarnation()}
	}
	if g.seldom() {
		c.Incarnation, c.PreviousBoot = g.run(name), "b1"
	}
	if g.seldom() {
		c.Witness = !c.Witness
	}
	return c
}

func (g *commandGen) volumeOp(c *metapb.Command, n int) {
	name := g.volumeName()
	v := g.s.Volume(name)
	generation, number := v.GetGeneration(), v.GetNumber()
	if g.seldom() {
		generation += pick(g.rand, ^uint64(0), 1)
	}
	if g.seldom() {
		number += pick(g.rand, ^uint64(0), 1)
	}
	switch to := g.member(v); {
	case n < 48 || v == nil && n < 90:
		c.Op = &metapb.Command_CreateVolume{CreateVolume: g.create(name)}
	case n < 50:
		c.Op = &metapb.Command_DeleteVolume{DeleteVolume: &metapb.DeleteVolume{Name: name, Force: g.rand.IntN(2) == 0}}
	case n < 53:
		c.Op = &metapb.Command_ResizeVolume{ResizeVolume: &metapb.ResizeVolume{Name: name, SizeBytes: 4096 * g.rand.Int64N(4), AllowShrink: g.rand.IntN(2) == 0}}
	case n < 58:
		c.Op = &metapb.Command_ChangeVolume{ChangeVolume: g.change(name, generation, number)}
	case n < 70:
		c.Op = &metapb.Command_Promote{Promote: &metapb.Promote{Volume: name, Generation: generation, Number: number, To: to, Incarnation: g.run(to), Force: g.seldom()}}
	case n < 82:
		c.Op = &metapb.Command_SetMembers{SetMembers: &metapb.SetMembers{Volume: name, Generation: generation, Number: number, Members: g.members(v), Copies: pick[int32](g.rand, 0, 0, 0, 1, 2, 3, 4)}}
	case n < 90:
		c.Op = &metapb.Command_Attach{Attach: &metapb.Attach{Volume: name, Generation: generation, Number: number, Holder: pick(g.rand, "", "x", "y"), Takeover: g.rand.IntN(2) == 0, Boot: g.rand.Uint64N(3)}}
	case n < 92:
		op := &metapb.SetService{Volume: name, Generation: generation, Number: number}
		for range g.rand.IntN(3) {
			op.Nodes = append(op.Nodes, g.nodeName())
		}
		op.Wanted = pick(g.rand, append(op.Nodes, "", "n1")...)
		c.Op = &metapb.Command_SetService{SetService: op}
	case n < 95:
		c.Op = &metapb.Command_ReportMark{ReportMark: &metapb.ReportMark{Volume: name, Generation: generation, Seq: g.rand.Uint64N(100)}}
	default:
		op := &metapb.Recover{Volume: name, Generation: generation, Number: number, Primary: to, Incarnation: g.run(to), Members: g.members(v)}
		if g.rand.IntN(3) == 0 {
			op.Waived = []string{g.member(v)}
		}
		c.Op = &metapb.Command_Recover{Recover: op}
	}
}

// member is mostly one of the volume's.
func (g *commandGen) member(v *metapb.Volume) string {
	if list := v.GetMembers(); len(list) > 0 && g.often() {
		return list[g.rand.IntN(len(list))].Node
	}
	return g.nodeName()
}

func (g *commandGen) create(name string) *metapb.CreateVolume {
	c := &metapb.CreateVolume{Name: name, SizeBytes: 1 << 20, Shared: g.seldom(), ManualFailover: g.seldom(),
		Durability: metapb.Durability(g.rand.IntN(3)), Ack: metapb.AckPolicy(pick(g.rand, 0, 0, 1, 2)), MinCopies: int32(pick(g.rand, 0, 0, 1, 2, 3))}
	switch g.rand.IntN(4) {
	case 0:
		c.Layout = &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: 2, Parity: int32(1 + g.rand.IntN(2))}
	case 1, 2:
		c.Layout = &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(1 + g.rand.IntN(4))}
	}
	return c
}

func (g *commandGen) change(name string, generation, number uint64) *metapb.ChangeVolume {
	c := &metapb.ChangeVolume{Name: name, Generation: generation, Number: number,
		Ack: metapb.AckPolicy(g.rand.IntN(3)), MinCopies: int32(g.rand.IntN(4)), Durability: metapb.Durability(g.rand.IntN(3))}
	if g.seldom() {
		c.Shared = new(g.rand.IntN(2) == 0)
	}
	if g.seldom() {
		c.ManualFailover = new(g.rand.IntN(2) == 0)
	}
	return c
}

// members is the present list with one or two changes.
func (g *commandGen) members(v *metapb.Volume) []*metapb.Member {
	list := proto.CloneOf(v).GetMembers()
	for range 1 + g.rand.IntN(2) {
		if len(list) == 0 || g.rand.IntN(3) == 0 {
			name := g.nodeName()
			list = append(list, &metapb.Member{Node: name, Incarnation: g.run(name), Log: true, State: metapb.ReplicaState(g.rand.IntN(6))})
			continue
		}
		i := g.rand.IntN(len(list))
		switch g.rand.IntN(4) {
		case 0:
			list = append(list[:i], list[i+1:]...)
		case 1:
			list[i].Amnesiac = false
			list[i].State = metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE
		case 2:
			list[i].State = metapb.ReplicaState(1 + g.rand.IntN(4))
		default:
			list[i].Leaving = g.rand.IntN(2) == 0
			list[i].Amnesiac, list[i].Shard = g.rand.IntN(2) == 0, int32(g.rand.IntN(4))
		}
	}
	return list
}

// conf is a configuration of Raft's.
func (g *commandGen) conf() *raftpb.ConfState {
	c := &raftpb.ConfState{}
	for id := range uint64(9) {
		switch g.rand.IntN(4) {
		case 0, 1:
			c.Voters = append(c.Voters, id+1)
		case 2:
			c.Learners = append(c.Learners, id+1)
		}
	}
	return c
}
