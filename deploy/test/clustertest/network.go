package clustertest

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Network is a switch in a network namespace of its own, and one more namespace
// for each node, plugged into it. Nothing of it touches the machine's own network.
type Network struct {
	prefix string
	nodes  int
}

// NewNetwork makes a network for a number of nodes, at most 200; it needs root
// and iproute2. The prefix names its namespaces, PREFIX-hub and PREFIX-0 and so
// on, and must be short.
func NewNetwork(prefix string, nodes int) (*Network, error) {
	n := &Network{prefix, 0}
	if err := n.build(nodes); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Network) build(nodes int) error {
	hub := n.hub()
	if err := ips("netns add "+hub, "-n "+hub+" link add br0 type bridge", "-n "+hub+" link set br0 up"); err != nil {
		return err
	}
	for i := range nodes {
		name, port := n.Namespace(i), n.port(i)
		if err := ips("netns add " + name); err != nil {
			return err
		}
		n.nodes++
		if err := ips(
			fmt.Sprintf("-n %s link add eth0 type veth peer name %s netns %s", name, port, hub),
			fmt.Sprintf("-n %s link set %s master br0 up", hub, port),
			fmt.Sprintf("-n %s addr add %s/24 dev eth0", name, host(i)),
			"-n "+name+" link set lo up",
			"-n "+name+" link set eth0 up"); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) hub() string       { return n.prefix + "-hub" }
func (n *Network) port(i int) string { return fmt.Sprintf("port%d", i) }

// Namespace is that of a node; empty in no network.
func (n *Network) Namespace(i int) string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf("%s-%d", n.prefix, i)
}

// address is where a node's peer service listens.
func (n *Network) address(i int) (string, error) {
	if n == nil {
		return FreeAddress()
	}
	return host(i) + ":7400", nil
}

// host is a node's address in the network.
func host(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

// Cut makes the network swallow everything from and to a node.
func (n *Network) Cut(node int) error {
	return ips(fmt.Sprintf("-n %s link set %s nomaster", n.hub(), n.port(node)))
}

// Block makes the network swallow everything that one node sends to another; the
// other way it goes on.
func (n *Network) Block(from, to int) error {
	// The frames go to an address that nobody has.
	return ips(fmt.Sprintf("-n %s neigh replace %s lladdr 02:00:00:00:00:01 nud permanent dev eth0", n.Namespace(from), host(to)))
}

// Part makes the network swallow everything between two nodes; others reach both.
func (n *Network) Part(a, b int) error { return errors.Join(n.Block(a, b), n.Block(b, a)) }

// Heal makes the network whole.
func (n *Network) Heal() error {
	for i := range n.nodes {
		if err := ips(
			fmt.Sprintf("-n %s link set %s master br0", n.hub(), n.port(i)),
			fmt.Sprintf("-n %s neigh flush nud permanent dev eth0", n.Namespace(i))); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the namespaces. Processes in them lose the network.
func (n *Network) Close() {
	for i := range n.nodes {
		ips("netns del " + n.Namespace(i)) //nolint:errcheck // as far as it was built
	}
	ips("netns del " + n.hub()) //nolint:errcheck // likewise
}

// ips runs ip commands until one fails.
func ips(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
