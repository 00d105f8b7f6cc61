package metadata

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"blkd/metadata/metapb"
)

// TestStewardTraces runs the scripts of testdata/steward and testdata/failover.
// Every line is a command; what the steward asks for stands below it, indented,
// with the time. It takes effect, unless the script says otherwise.
//
//	nodes n1 n2 n3* n4/zone=a   founds a cluster; the first three vote, n1 leads, "*"
//	                            is a witness; all work. Incarnations are 11, 21, …
//	run 5s                      time passes
//	health N WORD TEXT          the next verdict: up, slow, partitioned, down
//	hold N 10s                  the detector holds the node back
//	restart N KEY=VALUE…        another run registers; no verdict yet
//	register N KEY=VALUE…       the same, and the verdict is about the old run yet
//	ahead N                     the detector knows of a run that has not registered yet
//	lag N ENTRIES               how far its log is behind
//	stuck | unstuck             changes of members have no effect
//	lossy | reliable            commands have no effect
//	lead N                      another node becomes leader
//	members | volume V          what is recorded
//
// Every other line is a command to the state: see parseCommand.
func TestStewardTraces(t *testing.T)  { runTraces(t, "testdata/steward/*.txt", stewardTrace) }
func TestFailoverTraces(t *testing.T) { runTraces(t, "testdata/failover/*.txt", stewardTrace) }

func stewardTrace(script string) ([]byte, error) {
	var out bytes.Buffer
	w := newStewardWorld()
	w.say = func(format string, args ...any) {
		fmt.Fprintf(&out, "  %.1fs  %s\n", (w.now - time.Hour).Seconds(), fmt.Sprintf(format, args...))
	}
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, " ") {
			continue
		}
		out.WriteString(line)
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := stewardLine(w, line); err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
	}
	return out.Bytes(), nil
}

func stewardLine(w *stewardWorld, line string) error {
	words := strings.SplitN(line, " ", 4)
	for len(words) < 4 {
		words = append(words, "")
	}
	name := words[1]
	switch words[0] {
	case "nodes":
		return w.found(strings.Fields(line)[1:])
	case "run":
		d, err := time.ParseDuration(name)
		if err != nil {
			return err
		}
		return w.run(d)
	case "health":
		h := metapb.Health(metapb.Health_value["HEALTH_"+strings.ToUpper(words[2])])
		w.health(name, h, words[3])
	case "hold":
		d, err := time.ParseDuration(words[2])
		w.hold(name, d)
		return err
	case "restart":
		return w.restart(name, strings.TrimSpace(words[2]+" "+words[3]))
	case "register":
		return w.register(name, strings.TrimSpace(words[2]+" "+words[3]))
	case "ahead":
		v := w.verdicts[name]
		v.Incarnation++
		w.verdicts[name] = v
	case "lag":
		n, err := strconv.ParseUint(words[2], 10, 64)
		w.lag[w.s.Node(name).GetId()] = n
		return err
	case "stuck", "unstuck":
		w.stuck = words[0] == "stuck"
	case "lossy", "reliable":
		w.lossy = words[0] == "lossy"
	case "lead":
		w.reign(w.s.Node(name).GetId())
	case "members":
		w.say("%s leads, voters %s, learners %s", w.name(w.raft.ID), w.names(w.raft.Voters), w.names(w.raft.Learners))
	case "volume":
		v := w.s.Volume(name)
		w.say("generation %d, record %d, primary %s, members %s", v.GetGeneration(), v.GetNumber(), orNobody(v.GetPrimary()), membersText(v.GetMembers()))
	default:
		return w.line(line)
	}
	return nil
}
