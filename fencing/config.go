package fencing

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config says how machines are switched off. In a configuration file:
//
//	[fencing]
//	timeout_seconds = 60
//
//	[fencing.node.n2]
//	agent = "fence_ipmilan"
//	parameters = { ip = "10.0.0.12", username = "blkd", password_script = "/etc/blkd/ipmi", lanplus = "1", method = "onoff" }
type Config struct {
	TimeoutSeconds int               `toml:"timeout_seconds"` // of one run of an agent; default 60
	Attempts       int               `toml:"attempts"`        // until an agent succeeds; default 3
	PauseSeconds   int               `toml:"pause_seconds"`   // after the first failure, doubled up to 30; default 1
	Node           map[string]Device `toml:"node"`            // by the names of the nodes
}

// Device is what switches one node.
type Device struct {
	Agent string `toml:"agent"` // a program's name, as fence_ipmilan, or its path
	// Parameters are the agent's; "man AGENT" lists them. The action is not one of
	// them. They may hold secrets and are never printed.
	Parameters map[string]string `toml:"parameters"`
}

const (
	defaultTimeout  = 60
	defaultAttempts = 3
	defaultPause    = 1
	maxPause        = 30 * time.Second
)

func (c Config) withDefaults() Config {
	set := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	set(&c.TimeoutSeconds, defaultTimeout)
	set(&c.Attempts, defaultAttempts)
	set(&c.PauseSeconds, defaultPause)
	return c
}

var (
	agentName     = regexp.MustCompile(`^(/\S*/)?fence_[A-Za-z0-9_-]+$`)
	parameterName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)
)

// Validate says what is wrong with the configuration, as far as that can be seen
// without running an agent; see [Fencer.Check] for the rest.
func (c Config) Validate() error {
	for _, n := range []struct {
		key   string
		value int
		max   int
	}{{"timeout_seconds", c.TimeoutSeconds, 3600}, {"attempts", c.Attempts, 100}, {"pause_seconds", c.PauseSeconds, 30}} {
		if n.value < 0 || n.value > n.max {
			return fmt.Errorf("[fencing] %s = %d: use 1 to %d", n.key, n.value, n.max)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(c.Node)) {
		if err := c.Node[node].validate(); err != nil {
			return fmt.Errorf("[fencing.node.%s] %w", node, err)
		}
	}
	return nil
}

func (d Device) validate() error {
	if !agentName.MatchString(d.Agent) {
		return fmt.Errorf("agent = %q: give the name of a fence agent, as fence_ipmilan, or its path", d.Agent)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Parameters)) {
		value := d.Parameters[name]
		quoted := len(value) > 1 && strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`)
		switch {
		case !parameterName.MatchString(name):
			return fmt.Errorf("parameter %q: a name has letters, digits, - and _", name)
		case canonical(name) == "action", canonical(name) == "option":
			return fmt.Errorf("parameter %s: blkd sets the action itself; leave it out", name)
		case strings.ContainsAny(value, "\n\r\x00"):
			return fmt.Errorf("parameter %s: agents read one line for each parameter, and the value has more", name)
		case strings.TrimSpace(value) != value || quoted:
			return fmt.Errorf("parameter %s: agents take away the spaces or quotes around the value; use the agent's NAME_script parameter for such a secret", name)
		}
	}
	return nil
}

// canonical is a parameter's name as agents compare it.
func canonical(name string) string { return strings.ReplaceAll(strings.ToLower(name), "-", "_") }

// stdin is what an agent reads: its parameters, one a line.
func (d Device) stdin(a Action) string {
	var b strings.Builder
	fmt.Fprintf(&b, "action=%s\n", a)
	for _, name := range slices.Sorted(maps.Keys(d.Parameters)) {
		fmt.Fprintf(&b, "%s=%s\n", name, d.Parameters[name])
	}
	return b.String()
}

var secretName = regexp.MustCompile(`(?i)pass|secret|token|key|community`)

// redact takes secrets out of what an agent printed, the longest first, for one may
// be a part of another.
func (d Device) redact(text string) string {
	var secrets []string
	for name, value := range d.Parameters {
		if value != "" && secretName.MatchString(name) {
			secrets = append(secrets, value)
		}
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, value := range secrets {
		text = strings.ReplaceAll(text, value, "***")
	}
	return text
}
