package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// fenceAgent is a fence agent that keeps the power of its one machine in a file, as
// fence_dummy does.
const fenceAgent = `#!/bin/sh
while IFS= read -r line; do
	case "$line" in
	action=*) action=${line#action=} ;;
	state=*) state=${line#state=} ;;
	password=*) password=${line#password=} ;;
	esac
done
[ "$password" = hush ] || { echo "ERROR: the password $password is wrong" >&2; exit 1; }
case "$action" in
off | on) echo "$action" >"$state" ;;
reboot) echo on >"$state" ;;
status) [ "$(cat "$state")" = on ] || exit 2 ;;
esac
`

// TestDeadNodeIsFenced: the leader switches the machine of a node off that is down,
// after its volume has failed over; an operator's word does it at any time.
func TestDeadNodeIsFenced(t *testing.T) {
	dir := t.TempDir()
	agent, power := filepath.Join(dir, "fence_test"), filepath.Join(dir, "power")
	settings := fmt.Sprintf("[fencing]\nattempts = 1\n[fencing.node.n1]\nagent = %q\nparameters = { state = %q, password = \"hush\" }\n"+
		"[fencing.node.n2]\nagent = %q\nparameters = { state = %q, password = \"wrong\" }\n", agent, power, agent, power)
	file := filepath.Join(dir, "fencing.toml")
	for name, text := range map[string]string{agent: fenceAgent, power: "on\n", file: settings} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	isOn := func() bool {
		text, err := os.ReadFile(power)
		return err == nil && strings.TrimSpace(string(text)) == "on"
	}
	c := newTrio(t, three, func(cfg *Config) { cfg.Cluster.Fencing = file })
	c.startAll()
	via := c.address("n3")
	c.on(via, "v", "n1", "n2")
	fence := &api.FenceNodeRequest{Name: "n1", Action: "off", Request: &api.RequestInfo{By: "op", Reason: "it hangs"}}
	_, err := via.FenceNode(brief(t), fence)
	wantError(t, err, codes.FailedPrecondition, "n1 is up")
	_, err = via.FenceNode(brief(t), &api.FenceNodeRequest{Name: "n1", Action: "melt"})
	wantError(t, err, codes.InvalidArgument, "melt")
	_, err = via.FenceNode(brief(t), &api.FenceNodeRequest{Name: "n3", Action: "off", Force: true})
	wantError(t, err, codes.FailedPrecondition, "no fence device")
	_, err = via.FenceNode(brief(t), &api.FenceNodeRequest{Name: "n2", Action: "off", Force: true})
	wantError(t, err, codes.Internal, "the password *** is")

	c.kill("n1")
	eventually(t, "n1 is switched off", func() bool {
		n, err := via.ShowNode(brief(t), &api.ShowNodeRequest{Name: "n1"})
		return err == nil && n.Record.Fenced == "switched off" && n.Primaries == 0 && !isOn()
	})
	fence.Action = "on"
	n, err := via.FenceNode(brief(t), fence)
	if err != nil || !isOn() || n.Record.Fenced != "switched on" {
		t.Errorf("%v, %v", n, err)
	}
	c.start("n1")
	c.ready("n1")
	if !isOn() {
		t.Error("it was switched off again, under its operator")
	}
	if n, err := via.ShowNode(brief(t), &api.ShowNodeRequest{Name: "n1"}); err != nil || n.Record.Fenced != "" || n.Record.Health != metapb.Health_HEALTH_UP {
		t.Errorf("%v, %v", n, err)
	}
}
