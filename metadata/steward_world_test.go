package metadata

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// stewardWorld is a quorum as its leader sees it, without Raft: what the steward
// asks for takes effect by itself, and is checked against the rules first.
type stewardWorld struct {
	now      time.Duration
	tick     time.Duration // how often the steward is asked
	s        *State
	index    uint64
	steward  *Steward
	raft     RaftStatus
	verdicts map[string]Verdict
	lag      map[uint64]uint64 // entries that a member is behind
	stuck    bool              // changes of members have no effect
	lossy    bool              // nor have commands
	under    *raftpb.ConfChangeV2
	due      time.Duration              // when it takes effect
	asked    map[string][]time.Duration // when each thing was asked for without effect
	say      func(format string, args ...any)
	changes  int // of members, ever
}

func newStewardWorld() *stewardWorld {
	w := &stewardWorld{now: time.Hour, tick: 100 * time.Millisecond, s: NewState(), verdicts: map[string]Verdict{}, lag: map[uint64]uint64{},
		asked: map[string][]time.Duration{}, say: func(string, ...any) {}}
	w.raft = RaftStatus{ID: 1, Leader: 1, Commit: 10000}
	w.reign(1)
	return w
}

func (w *stewardWorld) wall() int64 { return int64(1e18) + int64(w.now) }

// reign makes another node leader, with a steward of its own. A change that the one
// before asked for has gone with it.
func (w *stewardWorld) reign(id uint64) {
	w.under = nil
	w.raft.ID, w.raft.Leader = id, id
	steward, err := NewSteward(StewardConfig{})
	if err != nil {
		panic(err)
	}
	w.steward, w.asked = steward, map[string][]time.Duration{}
}

// do applies a command, which has to succeed.
func (w *stewardWorld) do(c *metapb.Command) error {
	w.index++
	c = proto.CloneOf(c)
	c.Request = requestOf(w.index)
	if r := w.s.Apply(w.index, c); r.Code != metapb.Code_CODE_OK {
		return fmt.Errorf("%v: %s", c.Op, r.Text)
	}
	return nil
}

func (w *stewardWorld) line(line string) error {
	c, err := parseCommand(w.s, line)
	if err == nil {
		err = w.do(c)
	}
	return err
}

// found makes a cluster of nodes that all have registered and work.
func (w *stewardWorld) found(nodes []string) error {
	var founders []string
	for i, name := range nodes {
		name, _, _ := strings.Cut(strings.TrimSuffix(name, "*"), "/")
		if i >= 3 {
			name += "-"
		}
		founders = append(founders, name)
	}
	if err := w.line("found_cluster cluster=7 founders=" + strings.Join(founders, ",")); err != nil {
		return err
	}
	for i, name := range nodes {
		name, labels, _ := strings.Cut(name, "/")
		name, witness := strings.CutSuffix(name, "*")
		extra := fmt.Sprintf("witness=%v", witness)
		if labels != "" {
			extra += " labels=" + labels
		}
		if err := w.restart(name, extra); err != nil {
			return err
		}
		w.health(name, metapb.Health_HEALTH_UP, "answers")
		if i < 3 {
			w.raft.Voters = append(w.raft.Voters, uint64(i+1))
		} else {
			w.raft.Learners = append(w.raft.Learners, uint64(i+1))
		}
	}
	return nil
}

// restart registers a new run of a node; the detector knows that it has not heard it.
func (w *stewardWorld) restart(name, extra string) error {
	err := w.register(name, extra)
	w.verdicts[name] = Verdict{Node: name, Incarnation: w.s.Node(name).GetIncarnation(), Since: w.now, Text: "not heard so far"}
	return err
}

// register registers a new run of a node; the detector is still about the one before.
func (w *stewardWorld) register(name, extra string) error {
	n := w.s.Node(name)
	disk := n.GetDisk()
	if disk == 0 {
		disk = 2000 + w.index
	}
	run := n.GetIncarnation() + 1
	if run < 10 {
		run = 10*n.GetId() + 1
	}
	return w.line(fmt.Sprintf("register_node name=%s incarnation=%d disk=%d previous=%d boot=b previous_boot=b address=%s version_min=1 version_max=1 capacity_bytes=100G free_bytes=90G witness=%v %s",
		name, run, disk, n.GetIncarnation(), n.GetAddress(), n.GetWitness(), extra))
}

// health is the detector's next verdict about a node.
func (w *stewardWorld) health(name string, h metapb.Health, text string) {
	v := w.verdicts[name]
	if v.Health != h {
		v.Since = w.now
	}
	v.Node, v.Incarnation, v.Health, v.Text = name, w.s.Node(name).GetIncarnation(), h, text
	w.verdicts[name] = v
}

// hold lets the detector hold a node back.
func (w *stewardWorld) hold(name string, d time.Duration) {
	v := w.verdicts[name]
	v.HeldUntil = w.now + d
	w.verdicts[name] = v
}

// run lets the steward work for a while.
func (w *stewardWorld) run(d time.Duration) error {
	for end := w.now + d; w.now < end; {
		if err := w.step(); err != nil {
			return fmt.Errorf("at %.1fs: %w", (w.now - time.Hour).Seconds(), err)
		}
	}
	return nil
}

func (w *stewardWorld) step() error {
	w.now += w.tick
	w.takeEffect()
	in := StewardInput{Now: w.now, Wall: w.wall(), State: w.s, Raft: w.raft}
	in.Raft.Match = map[uint64]uint64{}
	for _, id := range slices.Concat(w.raft.Voters, w.raft.Learners) {
		in.Raft.Match[id] = w.raft.Commit - min(w.raft.Commit, w.lag[id])
	}
	for _, n := range w.s.Nodes() {
		v, ok := w.verdicts[n.Name]
		if v.HeldUntil != 0 && v.HeldUntil <= w.now {
			v.HeldUntil = 0
			w.verdicts[n.Name] = v
		}
		if ok {
			in.Verdicts = append(in.Verdicts, v)
		}
	}
	out := w.steward.Step(in)
	for _, c := range out.Commands {
		if err := w.command(c); err != nil {
			return err
		}
	}
	switch {
	case out.Change != nil:
		return w.change(out)
	case out.Transfer != 0:
		w.say("lead %s: %s", w.name(out.Transfer), out.Reason)
		if err := w.paused("lead"); err != nil || w.stuck {
			return err
		}
		w.reign(out.Transfer)
	}
	return nil
}

// takeEffect lets a change of members happen.
func (w *stewardWorld) takeEffect() {
	if w.under == nil || w.now < w.due || w.stuck {
		return
	}
	w.raft.Voters, w.raft.Learners = outcomeOf(w.raft, w.under)
	w.under = nil
	w.asked = map[string][]time.Duration{}
	w.s.ApplyConf(w.index, &raftpb.ConfState{Voters: w.raft.Voters, Learners: w.raft.Learners})
}

// outcomeOf is what Raft makes of its members.
func outcomeOf(r RaftStatus, cc *raftpb.ConfChangeV2) (voters, learners []uint64) {
	voters, learners = slices.Clone(r.Voters), slices.Clone(r.Learners)
	for _, c := range cc.Changes {
		id := c.GetNodeId()
		voters, learners = without(voters, id), without(learners, id)
		switch c.GetType() {
		case raftpb.ConfChangeAddNode:
			voters = append(voters, id)
		case raftpb.ConfChangeAddLearnerNode:
			learners = append(learners, id)
		}
	}
	return sortedIDs(voters), sortedIDs(learners)
}

func (w *stewardWorld) name(id uint64) string {
	if n := w.s.NodeByID(id); n != nil {
		return n.Name
	}
	return fmt.Sprint("#", id)
}

// paused checks that what has had no effect is tried again after a pause that
// grows up to a minute, until it was not wanted for long.
func (w *stewardWorld) paused(key string) error {
	times := w.asked[key]
	if n := len(times); n > 0 {
		due := min(time.Second<<min(n-1, 10), time.Minute)
		switch pause := w.now - times[n-1]; {
		case pause < due:
			return fmt.Errorf("%s is tried for the %dth time after %v only", key, n+1, pause)
		case pause > due+2*time.Minute:
			times = nil
		}
	}
	w.asked[key] = append(times, w.now)
	return nil
}

func (w *stewardWorld) command(c *metapb.Command) error {
	key := ""
	switch op := c.Op.(type) {
	case *metapb.Command_ObserveNode:
		o := op.ObserveNode
		held := ""
		if o.HeldUntil != 0 {
			held = fmt.Sprintf(", held for %.1fs", time.Duration(o.HeldUntil-w.wall()).Seconds())
		}
		w.say("record %s %s%s: %s", o.Name, metapb.HealthWord(o.Health), held, c.Reason)
		if v := w.verdicts[o.Name]; v.Incarnation != o.Incarnation {
			return fmt.Errorf("a verdict on run %d of %s is recorded for run %d", v.Incarnation, o.Name, o.Incarnation)
		}
		key = fmt.Sprint("observe ", o.Name, o.Health, o.HeldUntil/1e9)
	case *metapb.Command_Promote:
		p := op.Promote
		w.say("promote %s %s -> %s by %s: %s", p.Volume, orNobody(w.s.Volume(p.Volume).Primary), p.To, c.By, c.Reason)
		if err := w.checkPromote(p); err != nil {
			return err
		}
		key = fmt.Sprint("promote ", p.Volume, p.Number)
	case *metapb.Command_SetMembers:
		m := op.SetMembers
		w.say("members %s: %s -> %s: %s", m.Volume, membersText(w.s.Volume(m.Volume).Members), membersText(m.Members), c.Reason)
		if err := w.checkMove(m); err != nil {
			return err
		}
		key = fmt.Sprint("members ", m.Volume, m.Number)
	case *metapb.Command_SetService:
		m := op.SetService
		w.say("service %s: %s -> %s: %s", m.Volume, w.s.Volume(m.Volume).Service.GetWanted(), m.Wanted, c.Reason)
		if err := w.checkService(m); err != nil {
			return err
		}
		key = fmt.Sprint("service ", m.Volume, m.Number)
	case *metapb.Command_SetClusterVersion:
		w.say("version %d: %s", op.SetClusterVersion.Version, c.Reason)
		key = "version"
	default:
		return fmt.Errorf("the steward asks for %v", c)
	}
	if err := w.paused(key); err != nil {
		return err
	}
	if w.lossy {
		return nil
	}
	delete(w.asked, key)
	return w.do(c)
}

// checkPromote repeats the rules of failover.
func (w *stewardWorld) checkPromote(p *metapb.Promote) error {
	v := w.s.Volume(p.Volume)
	primary, old := w.s.Node(v.Primary), w.verdicts[v.Primary]
	serves := primary != nil && primary.Incarnation != 0 && primary.Incarnation == v.PrimaryIncarnation
	if bad := old.Health == metapb.Health_HEALTH_DOWN || old.Health == metapb.Health_HEALTH_PARTITIONED; serves && (!bad || old.Incarnation != primary.Incarnation) {
		return fmt.Errorf("volume %s: primary %s can serve and is replaced", p.Volume, v.Primary)
	}
	if v.ManualFailover {
		return fmt.Errorf("volume %s: failover is manual", p.Volume)
	}
	m := v.Members[memberIndex(v.Members, p.To)]
	verdict := w.verdicts[p.To]
	answers := verdict.Health == metapb.Health_HEALTH_UP || verdict.Health == metapb.Health_HEALTH_SLOW
	if !sound(m) || !m.Log || p.Incarnation != w.s.Node(p.To).Incarnation || verdict.Incarnation != p.Incarnation || !answers {
		return fmt.Errorf("volume %s: %s cannot lead: %v, %v", p.Volume, p.To, m, verdict)
	}
	seals := 0
	for _, m := range v.Members {
		seals += truth(sound(m) && m.Log && w.works(w.s.Node(m.Node).Id))
	}
	if need := sealQuorum(v.Ack, tallyOf(v.Members).logs); seals < need {
		return fmt.Errorf("volume %s: %s finds %d members to seal the log, of %d that it needs", p.Volume, p.To, seals, need)
	}
	return nil
}

// checkMove repeats the rules of evacuate.
func (w *stewardWorld) checkMove(c *metapb.SetMembers) error {
	v := w.s.Volume(c.Volume)
	comer := c.Members[len(c.Members)-1]
	to := w.s.Node(comer.Node)
	leaving := 0
	for i, m := range c.Members[:len(c.Members)-1] {
		if from := w.s.Node(m.Node); m.Node != v.Members[i].Node || m.Leaving && !(from.Drained && !from.KeepReplicas) {
			return fmt.Errorf("volume %s: %s leaves", v.Name, m.Node)
		}
		leaving += truth(m.Leaving)
	}
	if leaving != 1 || len(c.Members) != len(v.Members)+1 || comer.State != metapb.ReplicaState_REPLICA_STATE_INCONSISTENT || unusable(to) != "" {
		return fmt.Errorf("volume %s: %d leave, %s comes", v.Name, leaving, comer.Node)
	}
	return nil
}

// checkService repeats the rules of moveServices.
func (w *stewardWorld) checkService(c *metapb.SetService) error {
	v := w.s.Volume(c.Volume)
	n, verdict := w.s.Node(v.Service.Wanted), w.verdicts[v.Service.Wanted]
	if down := verdict.Health == metapb.Health_HEALTH_DOWN && w.now-verdict.Since >= 10*time.Second; n != nil && !n.Drained && !down {
		return fmt.Errorf("volume %s: its service leaves %s, which works or has only just failed: %v", v.Name, n.Name, verdict)
	}
	if to := w.s.Node(c.Wanted); to == nil || unusable(to) != "" || !slices.Contains(v.Service.Nodes, c.Wanted) || !slices.Equal(c.Nodes, v.Service.Nodes) {
		return fmt.Errorf("volume %s: its service goes to %s, of %v", v.Name, c.Wanted, c.Nodes)
	}
	return nil
}

// works tells whether a member of Raft answers.
func (w *stewardWorld) works(id uint64) bool {
	n := w.s.NodeByID(id)
	if id == w.raft.ID {
		return true
	}
	if n == nil || n.Incarnation == 0 {
		return false
	}
	v := w.verdicts[n.Name]
	return v.Incarnation == n.Incarnation && (v.Health == metapb.Health_HEALTH_UP || v.Health == metapb.Health_HEALTH_SLOW)
}

// bears is how many of the voters may fail before the quorum is lost.
func (w *stewardWorld) bears(voters []uint64) int {
	n := 0
	for _, id := range voters {
		n += truth(w.works(id))
	}
	return n - len(voters)/2 - 1
}

// change checks a change of members and lets it take effect a little later.
func (w *stewardWorld) change(out StewardOutput) error {
	voters, learners := outcomeOf(w.raft, out.Change)
	w.say("voters %s, learners %s: %s", w.names(voters), w.names(learners), out.Reason)
	w.changes++
	if w.under != nil && w.now < w.due+700*time.Millisecond {
		return errors.New("another change of members is under way")
	}
	if err := w.paused(fmt.Sprint("change ", voters, learners)); err != nil {
		return err
	}
	if len(out.Change.Changes) > 1 && out.Change.GetTransition() != raftpb.ConfChangeTransitionJointImplicit {
		return errors.New("several steps without a joint configuration")
	}
	if w.bears(w.raft.Voters) < 0 || w.bears(voters) < 0 {
		return errors.New("there is no majority that works, before or after")
	}
	stranger := slices.ContainsFunc(w.raft.Voters, func(id uint64) bool { return w.s.NodeByID(id) == nil })
	if w.bears(voters) < w.bears(w.raft.Voters) && !stranger {
		return errors.New("fewer failures can be borne afterwards")
	}
	if known := quorumSize(len(w.s.Nodes())); len(voters) < len(w.raft.Voters) && len(voters) < known && !stranger {
		return fmt.Errorf("voters fall to %d, though %d nodes are known", len(voters), len(w.s.Nodes()))
	}
	for _, id := range voters {
		if slices.Contains(w.raft.Voters, id) {
			continue
		}
		n := w.s.NodeByID(id)
		v := w.verdicts[n.Name]
		if w.lag[id] > 1000 || v.Health != metapb.Health_HEALTH_UP || w.now-v.Since < 5*time.Second || v.HeldUntil != 0 || n.Drained {
			return fmt.Errorf("%s comes to vote and is not fit for it: %v, %d behind", n.Name, v, w.lag[id])
		}
	}
	if slices.Contains(w.raft.Voters, w.raft.ID) && !slices.Contains(voters, w.raft.ID) {
		return errors.New("the leader takes its own vote away")
	}
	w.under, w.due = out.Change, w.now+200*time.Millisecond
	return nil
}

func (w *stewardWorld) names(ids []uint64) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = w.name(id)
	}
	return "[" + strings.Join(list, " ") + "]"
}
