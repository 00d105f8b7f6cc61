package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc/codes"

	"blkd/fencing"
	"blkd/internal/api"
	"blkd/internal/env"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

const (
	fenceLook  = time.Second
	fenceTime  = 5 * time.Minute // for one request, attempts and pauses included
	fenceAgain = time.Minute     // after one that has failed
	// fenceAnyway is how long a dead node's volumes may take to fail over before its
	// machine is switched off all the same.
	fenceAnyway = 10 * time.Second
)

// loadFencing reads how machines are switched, if anything is configured.
func (m *member) loadFencing(clock env.Clock) error {
	name := m.node.cfg.Cluster.Fencing
	if name == "" {
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return settingError("cluster.fencing", "%w", err)
	}
	var file struct {
		Fencing fencing.Config `toml:"fencing"`
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return settingError("cluster.fencing", "%s: %w", name, err) // without the line: it may hold a secret
	}
	if clock == nil {
		clock = env.SystemClock{}
	}
	if m.fencer, err = fencing.NewFencer(file.Fencing, fencing.RunAgent, clock); err != nil {
		return settingError("cluster.fencing", "%s: %w", name, err)
	}
	return nil
}

// fenceDead switches machines off whose nodes are down, while this node leads the
// quorum: after their volumes have failed over, which never waits for it.
func (m *member) fenceDead() {
	again := map[string]time.Time{} // not before
	for {
		select {
		case <-m.node.stopping.Done():
			return
		case <-time.After(fenceLook):
		}
		if m.cluster.Status().Leader != m.node.cfg.NodeName {
			continue
		}
		for _, n := range m.dead() {
			if time.Now().Before(again[n.Name]) {
				continue
			}
			if _, err := m.fence(m.node.stopping, n, fencing.Off, &metapb.Command{By: "fencing", Reason: n.HealthText}); err != nil {
				again[n.Name] = time.Now().Add(fenceAgain)
			}
		}
	}
}

// dead is which machines are to be switched off now, as the quorum knows.
func (m *member) dead() (list []*metapb.Node) {
	ctx, cancel := context.WithTimeout(m.node.stopping, statusTime)
	defer cancel()
	err := m.cluster.Read(ctx, func(s *metadata.State) {
		for _, n := range s.Nodes() {
			if n.Name == m.node.cfg.NodeName || n.Health != metapb.Health_HEALTH_DOWN || wasSwitched(n) || !m.fencer.Can(n.Name) {
				continue
			}
			serves := slices.ContainsFunc(s.Volumes(), func(v *metapb.Volume) bool { return v.Primary == n.Name && !v.ManualFailover })
			if !serves || time.Since(time.Unix(0, n.HealthSince)) > fenceAnyway {
				list = append(list, n)
			}
		}
	})
	if err != nil {
		return nil
	}
	return list
}

// switched are what is recorded of a request that has succeeded.
var switched = map[fencing.Action]string{fencing.Off: "switched off", fencing.On: "switched on", fencing.Reboot: "rebooted"}

// wasSwitched tells whether the machine of a node was switched since that last started:
// then it is an operator's, who may have switched it on again and waits for it.
func wasSwitched(n *metapb.Node) bool {
	for _, text := range switched {
		if n.Fenced == text {
			return true
		}
	}
	return false
}

// fence switches a machine, logs it, and has the quorum record what became of it.
func (m *member) fence(ctx context.Context, n *metapb.Node, action fencing.Action, command *metapb.Command) (*metapb.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, fenceTime)
	defer cancel()
	out, err := m.fencer.Switch(ctx, n.Name, action)
	text := switched[action]
	if err != nil {
		text = fmt.Sprintf("%.300s", err.Error())
		m.node.log.Error("a machine could not be switched", "node", n.Name, "action", action, "err", err, "why", command.Reason)
	} else {
		m.node.log.Warn("a machine was switched", "node", n.Name, "action", action, "agent", out.Agent, "attempts", out.Attempts, "took", out.Took, "power", out.Power.String(), "why", command.Reason)
	}
	command.Op = &metapb.Command_FenceNode{FenceNode: &metapb.FenceNode{Name: n.Name, Incarnation: n.Incarnation, Text: text}}
	result, doErr := m.cluster.Do(ctx, command)
	switch {
	case err != nil:
		return nil, err
	case doErr != nil:
		return nil, fmt.Errorf("it was done, and could not be recorded: %w", doErr)
	case result.Node == nil:
		return n, nil // it runs again meanwhile: nothing is recorded of that
	}
	return result.Node, nil
}

// FenceNode implements api.ClusterService.
func (s *clusterService) FenceNode(ctx context.Context, req *api.FenceNodeRequest) (*api.ClusterNode, error) {
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	n := v.node(req.Name)
	action := fencing.Action(req.Action)
	switch {
	case n == nil:
		return nil, s.noNode(req.Name)
	case action != fencing.Off && action != fencing.On && action != fencing.Reboot:
		return nil, s.node.refuse(codes.InvalidArgument, "blkctl node fence --help", "%q is no action: use off, on or reboot", req.Action)
	case s.fencer == nil || !s.fencer.Can(n.Name):
		return nil, s.node.refuse(codes.FailedPrecondition, "set cluster.fencing there, or ask another node with --node",
			"no fence device for node %s is configured on %s", n.Name, s.node.cfg.NodeName)
	case action != fencing.On && !req.Force && (n.Health == metapb.Health_HEALTH_UP || n.Health == metapb.Health_HEALTH_SLOW):
		return nil, s.node.refuse(codes.FailedPrecondition, "blkctl node drain "+n.Name+" first, or add --force",
			"node %s is %s: its machine is not switched off under it", n.Name, metapb.HealthWord(n.Health))
	}
	now, err := s.fence(ctx, n, action, &metapb.Command{By: asker(ctx, req.Request), Reason: req.Request.GetReason()})
	if err != nil {
		return nil, s.node.refuse(codes.Internal, "look at the device; blkd's log on "+s.node.cfg.NodeName, "%v", err)
	}
	return v.describeNode(now), nil
}
