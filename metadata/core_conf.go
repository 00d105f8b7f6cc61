package metadata

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// ProposeConf asks the leader to change the members. A later Process names the
// change's Context when it, with leaving the joint configuration that may lie in
// between, has taken effect. ErrDropped: not on a leader. ErrConfPending: one
// change at a time. Other errors say why the change makes no sense.
func (c *Core) ProposeConf(cc *raftpb.ConfChangeV2) (err error) {
	defer c.catch(&err)
	if err := c.checkConf(cc); err != nil {
		return err
	}
	kind, data, err := raftpb.MarshalConfChange(cc)
	if err != nil {
		return fmt.Errorf("encode a change of members: %w", err)
	}
	m := &raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: &c.config.ID,
		Entries: []*raftpb.Entry{{Type: kind.Enum(), Data: data}},
	}
	if err := c.raw.Step(m); err != nil {
		return fmt.Errorf("%w (%w)", ErrDropped, err)
	}
	if m.Entries[0].GetType() != kind { // raft has put an empty entry in its place
		return ErrConfPending
	}
	return nil
}

// checkConf refuses what raft would panic over when it is applied.
func (c *Core) checkConf(cc *raftpb.ConfChangeV2) error {
	joint := len(c.conf.GetVotersOutgoing()) > 0
	switch {
	case joint && !cc.LeaveJoint():
		return ErrConfPending
	case joint:
		return nil
	case len(cc.GetChanges()) == 0:
		return errors.New("the change of members changes nothing")
	}
	last, err := c.log.LastIndex()
	if err != nil {
		return err
	}
	changer := confchange.Changer{Tracker: tracker.MakeProgressTracker(maxAppends, 0), LastIndex: last}
	if changer.Tracker.Config, changer.Tracker.Progress, err = confchange.Restore(changer, c.conf); err != nil {
		return fmt.Errorf("change of members: %w", err)
	}
	if auto, joint := cc.EnterJoint(); joint {
		_, _, err = changer.EnterJoint(auto, cc.GetChanges()...)
	} else {
		_, _, err = changer.Simple(cc.GetChanges()...)
	}
	if err != nil {
		return fmt.Errorf("change of members: %w", err)
	}
	return nil
}

// applyConf takes a change of members into effect.
func (c *Core) applyConf(index uint64, cc *raftpb.ConfChangeV2, out *Output) {
	c.conf = c.raw.ApplyConfChange(cc)
	c.state.ApplyConf(index, c.conf)
	out.Members = append(out.Members, Members{index, c.conf})
	out.Changed = true
	if len(cc.GetContext()) > 0 {
		c.changing = append(c.changing, string(cc.GetContext()))
	}
	if !c.conf.GetAutoLeave() {
		out.Confs = append(out.Confs, c.changing...)
		c.changing = nil
	}
}
