package fencing

import (
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Action is what an agent is asked to do.
type Action string

// The actions that every agent has.
const (
	Off      Action = "off"
	On       Action = "on"
	Reboot   Action = "reboot"
	Status   Action = "status"   // is it on?
	Monitor  Action = "monitor"  // does the device answer?
	Metadata Action = "metadata" // which parameters and actions are there?
)

// Power is what an agent says about a machine.
type Power uint8

// What a machine can be.
const (
	PowerUnknown Power = iota
	PowerOff
	PowerOn
)

// String is "unknown", "off" or "on".
func (p Power) String() string { return [...]string{"unknown", "off", "on"}[min(p, PowerOn)] }

// Result is how a run of an agent ended. Agents answer 0 for success, and of the
// action status 0 for on and 2 for off; everything else is a failure, 1 as a rule,
// that only the text on stderr explains.
type Result struct {
	Exit   int
	Stdout string
	Stderr string
}

// power reads the answer to the action status.
func (r Result) power() Power {
	switch r.Exit {
	case 0:
		return PowerOn
	case 2:
		return PowerOff
	}
	return PowerUnknown
}

// Exit codes of the agents' library. Agents as a rule print the text and exit with
// 1, but some hand the code on.
var exitTexts = map[int]string{
	1:  "it failed",
	2:  "it does not understand its parameters",
	3:  "the device refuses the login",
	4:  "the connection to the device was lost",
	5:  "the device does not answer",
	6:  "the machine did not go on in time",
	7:  "the machine did not go off in time",
	8:  "the device does not know the plug or machine",
	9:  "the device does not know the partition",
	10: "there is no password",
	11: "the user may not do that",
	12: "the device does not know the virtual machine",
}

var (
	logPrefix = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,.]+ )?(ERROR|CRITICAL)(:root)?: ?`)
	usageHint = "Please use '-h' for usage"
)

const maxExplanation = 300

// explain tells why a run failed: the errors that the agent logged, else the last
// line it printed, else what its exit code means.
func (r Result) explain() string {
	var errs []string
	last := ""
	for line := range strings.Lines(r.Stderr + "\n" + r.Stdout) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		prefix := logPrefix.FindString(line)
		text := strings.TrimPrefix(line, prefix)
		if prefix != "" && text != usageHint && !slices.Contains(errs, text) {
			errs = append(errs, text)
		}
	}
	text := strings.Join(errs, "; ")
	if text == "" {
		text = last
	}
	if text == "" {
		text = exitTexts[r.Exit]
	}
	if len(text) > maxExplanation {
		text = strings.ToValidUTF8(text[:maxExplanation], "") + "…"
	}
	if text == "" {
		return fmt.Sprintf("exit code %d", r.Exit)
	}
	return fmt.Sprintf("exit code %d: %s", r.Exit, text)
}

// agentMetadata is what agents say about themselves, as far as it is used.
type agentMetadata struct {
	Parameters []agentItem `xml:"parameters>parameter"`
	Actions    []agentItem `xml:"actions>action"`
}

type agentItem struct {
	Name      string `xml:"name,attr"`
	Obsoletes string `xml:"obsoletes,attr"` // an older name, which works too
}

func parseMetadata(text string) (*agentMetadata, error) {
	var m agentMetadata
	if err := xml.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("its metadata are not XML: %w", err)
	}
	if len(m.Parameters) == 0 {
		return nil, errors.New("its metadata name no parameter")
	}
	return &m, nil
}

// check finds parameters that the agent would ignore.
func (m *agentMetadata) check(d Device) error {
	known := map[string]bool{}
	for _, p := range m.Parameters {
		known[canonical(p.Name)] = true
		known[canonical(p.Obsoletes)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(d.Parameters)) {
		if !known[canonical(name)] {
			return fmt.Errorf("it has no parameter %s, and would ignore it; man %s lists those it has", name, d.Agent)
		}
	}
	if !slices.ContainsFunc(m.Actions, func(a agentItem) bool { return a.Name == string(Off) }) {
		return errors.New("it cannot switch a machine off")
	}
	return nil
}
