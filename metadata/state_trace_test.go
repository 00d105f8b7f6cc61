package metadata

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"blkd/metadata/metapb"
)

// TestStateTraces runs the scripts of testdata/state. Every line is a command (see
// parseCommand) or a question; what the state answers, and the events that tell
// what changed, stand below it, indented.
//
//	start N RUN …            a node registers after its last run: RegisterNode, with
//	                         what is not said as it mostly is
//	again                    the last command once more, with the same request id
//	first                    the next command has index 1, as where a cluster begins
//	history V | volume V | node N | cluster
//	plan name=V …            where CreateVolume would put the members
//	reload                   goes on with the decoded state, as after a snapshot
//
// A command is applied to a second state as well, which is decoded anew before
// each: both have to agree to the byte. With -rewrite the answers are written anew.
func TestStateTraces(t *testing.T) { runTraces(t, "testdata/state/*.txt", stateTrace) }

// runTraces compares what the scripts bring forth with what they say.
func runTraces(t *testing.T, pattern string, run func(script string) ([]byte, error)) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			if err := compareTrace(file, run, *rewrite); err != nil {
				t.Errorf("%v\n(go test ./metadata -run %s -rewrite writes it anew)", err, strings.Split(t.Name(), "/")[0])
			}
		})
	}
}

func compareTrace(file string, run func(script string) ([]byte, error), write bool) error {
	script, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	got, err := run(string(script))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	case write:
		return os.WriteFile(file, got, 0o644)
	case !bytes.Equal(got, script):
		return fmt.Errorf("%s: %s", filepath.Base(file), firstDifference(string(script), string(got)))
	}
	return nil
}

// stateTracer runs one script.
type stateTracer struct {
	s     *State
	index uint64
	last  *metapb.Command
	out   bytes.Buffer
}

func stateTrace(script string) ([]byte, error) {
	tr := &stateTracer{s: NewState()}
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, " ") {
			continue
		}
		tr.out.WriteString(line)
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := tr.line(line); err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
	}
	return tr.out.Bytes(), nil
}

func (tr *stateTracer) line(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "again":
		return tr.apply(tr.last)
	case "first":
		tr.index = 0
	case "history":
		tr.history(rest)
	case "volume":
		tr.say("%v", brief(volumeFields(tr.s.Volume(rest))))
	case "node":
		tr.say("%v", brief(nodeFields(tr.s.Node(rest))))
	case "cluster":
		tr.say("%v", brief(append(tr.s.clusterFields(), tr.s.votersFields()...)))
	case "plan":
		return tr.plan(rest)
	case "reload":
		s, err := DecodeState(tr.s.Encode())
		tr.s = s
		return err
	default:
		if verb == "start" {
			line = tr.start(rest)
		}
		c, err := parseCommand(tr.s, line)
		if err != nil {
			return err
		}
		tr.index++
		if c.Request == nil {
			c.Request = requestOf(tr.index)
		}
		if c.Time == 0 {
			c.Time = int64(tr.index) * 1e9
		}
		if c.By == "" {
			c.By = "op"
		}
		return tr.apply(c)
	}
	return nil
}

// start is the registration of a node's next run, in full.
func (tr *stateTracer) start(rest string) string {
	words := strings.Fields(rest)
	n := tr.s.Node(words[0])
	disk := n.GetDisk()
	if disk == 0 {
		disk = 2000 + n.GetId()
	}
	return fmt.Sprintf("register_node name=%s incarnation=%s disk=%d previous=%d boot=b1 previous_boot=%s address=%s version_min=1 version_max=1 capacity_bytes=100G free_bytes=90G %s",
		words[0], words[1], disk, n.GetIncarnation(), n.GetBoot(), n.GetAddress(), strings.Join(words[2:], " "))
}

// apply applies a command to the state and to a decoded copy, and shows the answer.
func (tr *stateTracer) apply(c *metapb.Command) error {
	tr.last = c
	encoded := tr.s.Encode()
	other, err := DecodeState(encoded)
	if err != nil {
		return err
	}
	before, unanswered := tr.s.LastEvent(), withoutAnswers(tr.s)
	r := tr.s.Apply(tr.index, c)
	if r2 := other.Apply(tr.index, c); !bytes.Equal(encode(r), encode(r2)) || !bytes.Equal(tr.s.Encode(), other.Encode()) {
		return fmt.Errorf("a state that was decoded answers %v, not %v", r2, r)
	}
	if r.Code != metapb.Code_CODE_OK && !bytes.Equal(unanswered, withoutAnswers(tr.s)) {
		return fmt.Errorf("refused (%s), but the state has changed", r.Text)
	}
	word := strings.ToLower(strings.TrimPrefix(r.Code.String(), "CODE_"))
	if r.Text != "" {
		word += ": " + r.Text
	}
	if r.Advice != "" {
		word += " → " + r.Advice
	}
	if r.Index != tr.index {
		word += fmt.Sprintf(" (of index %d)", r.Index)
	}
	tr.say("%s", word)
	tr.planText(r.Plan)
	tr.events(before)
	return nil
}

// events shows what has happened since event number before.
func (tr *stateTracer) events(before uint64) {
	events, _ := tr.s.Events(before)
	for _, e := range events {
		var words []string
		for _, c := range e.Changes {
			switch {
			case c.Old == "":
				words = append(words, c.Field+"="+c.New)
			case c.New == "":
				words = append(words, "no "+c.Field)
			default:
				words = append(words, c.Field+" "+c.Old+"->"+c.New)
			}
		}
		tr.say("event %d: %s %s %s: %s", e.Seq, e.Action, e.Type, e.Name, strings.Join(words, ", "))
	}
}

func (tr *stateTracer) plan(rest string) error {
	c, err := parseCommand(tr.s, "create_volume "+rest)
	if err != nil {
		return err
	}
	plan, err := Place(tr.s, c.GetCreateVolume())
	if err != nil {
		tr.say("refused: %v", err)
		return nil
	}
	tr.planText(plan)
	return nil
}

func (tr *stateTracer) planText(p *metapb.Plan) {
	if p == nil {
		return
	}
	tr.say("plan: members %s, primary %s", membersText(p.Members), p.Primary)
	for _, line := range p.Reasons {
		tr.say("    %s", line)
	}
	for _, line := range p.Rejected {
		tr.say("    not %s", line)
	}
	tr.say("    survives the loss of %s", orNone(strings.Join(p.Survives, ", ")))
}

func (tr *stateTracer) history(volume string) {
	h := tr.s.History(volume)
	if h == nil {
		tr.say("never existed")
		return
	}
	tr.say("volume %d, %d dropped, deleted %v", h.Volume, h.Dropped, h.Deleted)
	for _, e := range h.Entries {
		tr.say("    %d/%d %s; by %s %s", e.Generation, e.Number, e.What, e.By, e.Reason)
	}
}

func brief(list []field) string {
	words := make([]string, len(list))
	for i, f := range list {
		words[i] = f.name + "=" + f.value
	}
	return orNone(strings.Join(words, " "))
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}

func (tr *stateTracer) say(format string, args ...any) {
	fmt.Fprintf(&tr.out, "  %s\n", fmt.Sprintf(format, args...))
}
