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
	fieldText   = regexp.MustCompile(`(?m)^\s+(?:repeated |optional )?[\w.]+ (\w+) = (\d+);`)
	enumText    = regexp.MustCompile(`(?m)^\s+([A-Z_]+) = (\d+);`)
	rpcText     = regexp.MustCompile(`(?m)^\s+rpc (\w+)\(`)
)

// TestGeneratedCodeIsCurrent compares what is declared in each .proto file with
// what the generated code knows: after a change, run generate.sh.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	for file, generated := range map[string]protoreflect.FileDescriptor{
		"control.proto": File_internal_api_control_proto,
		"cluster.proto": File_internal_api_cluster_proto,
		"peer.proto":    File_internal_api_peer_proto,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		declared, known := declaredIn(text), knownIn(generated)
		for what, n := range declared {
			if known[what] != n {
				t.Errorf("%s: %d times in %s, %d times in the generated code", what, n, file, known[what])
			}
		}
		for what := range known {
			if declared[what] == 0 {
				t.Errorf("%s of %s: only in the generated code", what, file)
			}
		}
	}
}

// declaredIn counts what the text of a .proto file declares.
func declaredIn(text []byte) map[string]int {
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
	return declared
}

// knownIn counts the same in generated code.
func knownIn(f protoreflect.FileDescriptor) map[string]int {
	known := map[string]int{}
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
	return known
}

func eachMethod(s protoreflect.ServiceDescriptor, do func(protoreflect.Name)) {
	for i := range s.Methods().Len() {
		do(s.Methods().Get(i).Name())
	}
}

func TestStateWords(t *testing.T) {
	for state, want := range map[VolumeState]string{
		VolumeState_VOLUME_STATE_OK: "ok", VolumeState_VOLUME_STATE_DEGRADED: "degraded",
		VolumeState_VOLUME_STATE_FAILED: "failed", VolumeState_VOLUME_STATE_RECORDED: "recorded",
		VolumeState_VOLUME_STATE_WAITING: "waiting",
		VolumeState(99):                  "unknown",
	} {
		if got := state.Word(); got != want {
			t.Errorf("%v: %s, want %s", state, got, want)
		}
	}
}
