package api

import (
	"fmt"
	"os"
	"regexp"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

var (
	messageText = regexp.MustCompile(`(?m)^message (\w+) \{`)
	fieldText   = regexp.MustCompile(`(?m)^\s+(?:repeated )?[\w.]+ (\w+) = (\d+);`)
	enumText    = regexp.MustCompile(`(?m)^\s+([A-Z_]+) = (\d+);`)
	rpcText     = regexp.MustCompile(`(?m)^\s+rpc (\w+)\(`)
)

// TestGeneratedCodeIsCurrent compares what is declared in control.proto with
// what the generated code knows: after a change, run generate.sh.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	text, err := os.ReadFile("control.proto")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]int{}
	for _, m := range messageText.FindAllSubmatch(text, -1) {
		declared["message "+string(m[1])]++
	}
	for _, m := range fieldText.FindAllSubmatch(text, -1) {
		declared[fmt.Sprintf("field %s = %s", m[1], m[2])]++
	}
	for _, m := range enumText.FindAllSubmatch(text, -1) {
		declared[fmt.Sprintf("value %s = %s", m[1], m[2])]++
	}
	for _, m := range rpcText.FindAllSubmatch(text, -1) {
		declared["rpc "+string(m[1])]++
	}

	known := map[string]int{}
	f := File_control_proto
	for i := range f.Messages().Len() {
		m := f.Messages().Get(i)
		known["message "+string(m.Name())]++
		for j := range m.Fields().Len() {
			field := m.Fields().Get(j)
			known[fmt.Sprintf("field %s = %d", field.Name(), field.Number())]++
		}
	}
	for i := range f.Enums().Len() {
		for j := range f.Enums().Get(i).Values().Len() {
			v := f.Enums().Get(i).Values().Get(j)
			known[fmt.Sprintf("value %s = %d", v.Name(), v.Number())]++
		}
	}
	for i := range f.Services().Len() {
		eachMethod(f.Services().Get(i), func(name protoreflect.Name) { known["rpc "+string(name)]++ })
	}
	for what, n := range declared {
		if known[what] != n {
			t.Errorf("%s: %d times in control.proto, %d times in the generated code", what, n, known[what])
		}
	}
	for what := range known {
		if declared[what] == 0 {
			t.Errorf("%s: only in the generated code", what)
		}
	}
}

func eachMethod(s protoreflect.ServiceDescriptor, do func(protoreflect.Name)) {
	for i := range s.Methods().Len() {
		do(s.Methods().Get(i).Name())
	}
}

func TestStateWords(t *testing.T) {
	for state, want := range map[VolumeState]string{
		VolumeState_VOLUME_STATE_OK: "ok", VolumeState_VOLUME_STATE_DEGRADED: "degraded",
		VolumeState_VOLUME_STATE_FAILED: "failed", VolumeState(99): "unknown",
	} {
		if got := state.Word(); got != want {
			t.Errorf("%v: %s, want %s", state, got, want)
		}
	}
}
