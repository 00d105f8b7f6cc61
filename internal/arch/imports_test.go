package arch

import (
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mayImport is the order of the packages, top down: each may import those that
// it names and nothing else of this module. A package that is not here may not
// exist.
//
//	cmd/*, deploy/test/*
//	internal/sim
//	internal/node     internal/cli
//	internal/replicas
//	internal/cluster  internal/pki  internal/demo  internal/attach
//	nbd  replication  metadata  fio  internal/api
//	blockdev  fencing
//	internal/env, internal/mutant and other small ones
var mayImport = map[string][]string{
	"cmd/blkd":   {"internal/node"},
	"cmd/blkctl": {"internal/cli", "fio"},
	"cmd/blksim": {"internal/sim"},

	// Programs that measure and torment the others from outside.
	"deploy/test/benchnbd":          {"deploy/test/clustertest", "fio", "nbd", "blockdev", "internal/api", "internal/pki", "internal/units", "metadata/metapb"},
	"deploy/test/clusterbench":      {"deploy/test/clustertest", "internal/api", "metadata/metapb"},
	"deploy/test/clusterkill":       {"deploy/test/clustertest", "internal/api", "metadata/metapb"},
	"deploy/test/clusterpartition":  {"deploy/test/clustertest", "internal/api", "internal/mutant", "metadata/metapb"},
	"deploy/test/clusterwitness":    {"deploy/test/clustertest", "nbd", "blockdev", "internal/api", "metadata/metapb"},
	"deploy/test/endpoints":         {"deploy/test/clustertest", "nbd", "blockdev", "internal/api"},
	"deploy/test/clustertest":       {"nbd", "internal/api", "metadata/metapb"},
	"deploy/test/failover":          {"deploy/test/clustertest", "nbd", "blockdev", "internal/api", "internal/env", "internal/verifier", "metadata/metapb"},
	"deploy/test/killloop":          {"nbd", "blockdev", "internal/units"},
	"deploy/test/vm/iogap":          {},
	"deploy/test/memserver":         {"nbd", "blockdev", "internal/units"},
	"deploy/test/failoverpartition": {"deploy/test/clustertest", "nbd", "blockdev", "internal/api", "internal/history", "internal/history/reference", "internal/mutant", "internal/verifier", "metadata/metapb"},

	"internal/sim": {
		"internal/replicas", "replication", "metadata", "metadata/metapb", "internal/erasure", "blockdev", "internal/history", "internal/model", "internal/mutant",
	},
	"internal/node": {
		"internal/cluster", "internal/replicas", "internal/forward", "internal/mutant", "internal/socket", "internal/pki", "metadata/metapb", "nbd", "replication", "metadata", "fencing", "blockdev", "internal/api", "internal/env", "internal/suggest", "internal/units",
		"internal/version",
	},
	"internal/replicas": {
		"internal/cluster", "replication", "metadata", "metadata/metapb", "fencing", "blockdev", "internal/env", "internal/erasure", "internal/mutant",
	},
	"internal/cluster": {
		"metadata", "metadata/metapb", "fencing", "internal/api", "internal/env", "internal/pki", "internal/version",
	},
	"internal/cli": {"fio", "internal/attach", "internal/service", "nbd/kernel", "internal/demo", "internal/drill", "internal/api", "internal/pki", "internal/statefile", "metadata/metapb", "internal/suggest", "internal/units", "internal/version"},

	"internal/drill": {"nbd", "blockdev", "internal/verifier", "internal/api", "metadata/metapb"},
	"internal/demo":  {"nbd", "blockdev", "internal/drill", "internal/verifier", "internal/api", "metadata/metapb", "internal/units"},

	"internal/service":   {"metadata/metapb", "internal/mutant", "internal/statefile"},
	"internal/statefile": {},
	"internal/attach":    {"internal/statefile", "internal/forward", "nbd", "nbd/kernel", "blockdev", "metadata/metapb"},

	"nbd/kernel":      {},
	"nbd":             {"blockdev", "internal/socket"}, // never replication: it serves any Device
	"replication":     {"blockdev", "fencing", "internal/crc32c", "internal/env", "internal/erasure", "internal/mutant", "internal/socket"},
	"metadata":        {"metadata/metapb", "fencing", "internal/env", "internal/env/pebblefs", "internal/mutant", "internal/units"},
	"fio":             {"nbd", "blockdev", "internal/units"},
	"internal/api":    {"metadata/metapb"},
	"internal/pki":    {},
	"metadata/metapb": {},

	"blockdev":            {"internal/crc32c", "internal/env", "internal/mutant"},
	"blockdev/devicetest": {"blockdev"},
	"fencing":             {"blockdev", "internal/env", "internal/mutant"}, // blockdev for the type of generations

	"internal/crc32c":            {}, // golang.org/x/sys/cpu besides
	"internal/erasure":           {},
	"internal/forward":           {"blockdev"},
	"internal/env":               {},
	"internal/env/crashfs":       {"internal/env"},
	"internal/env/manualclock":   {"internal/env"},
	"internal/env/pebblefs":      {"internal/env"},
	"internal/history":           {},
	"internal/history/reference": {"internal/history"}, // porcupine besides
	"internal/model":             {},
	"internal/mutant":            {},
	"internal/socket":            {}, // golang.org/x/sys/unix besides
	"internal/suggest":           {},
	"internal/units":             {},
	"internal/verifier":          {"blockdev", "internal/history", "metadata/metapb"},
	"internal/version":           {},
	"internal/arch":              {},
}

// testsMayImport is what tests may import besides. Helpers for tests are free
// to all of them.
var testsMayImport = map[string][]string{
	"cmd/blkctl":   {"internal/node", "internal/cli"},
	"cmd/blkd":     {"internal/cli", "nbd", "blockdev"},
	"fio":          {"nbd", "internal/node"},
	"internal/cli": {"internal/node"},
}

var testHelpers = []string{"blockdev/devicetest", "internal/env/crashfs", "internal/env/manualclock", "internal/env", "internal/mutant", "internal/history", "internal/history/reference"}

// onlyStandard packages import nothing but the standard library and this module:
// they are the data path of one replica, and their tests.
var onlyStandard = []string{"blockdev", "blockdev/devicetest", "fencing", "internal/env/crashfs", "internal/mutant"}

func TestImportsPointDownward(t *testing.T) {
	for _, f := range repository(t).goes {
		allowed, known := mayImport[f.dir]
		if !known {
			t.Errorf("%s: package %s is not in the order of packages; give it a place in internal/arch/imports_test.go", f.path, f.dir)
			continue
		}
		if f.isTest {
			allowed = slices.Concat(allowed, testsMayImport[f.dir], testHelpers, []string{f.dir})
		}
		for _, p := range f.imports() {
			own, isOwn := strings.CutPrefix(p, module)
			if isOwn && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s, which does not lie below %s (the order is in internal/arch/imports_test.go)", f.path, own, f.dir)
			}
			external := strings.Contains(strings.Split(p, "/")[0], ".")
			if external && !f.isTest && slices.Contains(onlyStandard, f.dir) {
				t.Errorf("%s imports %s, but package %s uses the standard library only", f.path, p, f.dir)
			}
		}
	}
}

// TestOrderHasNoCycle keeps the table itself honest.
func TestOrderHasNoCycle(t *testing.T) {
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(p string, trail []string)
	visit = func(p string, trail []string) {
		switch state[p] {
		case visiting:
			t.Fatalf("cycle: %s", strings.Join(append(trail, p), " → "))
		case done:
			return
		}
		state[p] = visiting
		below, known := mayImport[p]
		if !known {
			t.Errorf("%s may import %s, which is not in the table", trail[len(trail)-1], p)
		}
		for _, q := range below {
			visit(q, append(trail, p))
		}
		state[p] = done
	}
	for p := range mayImport {
		visit(p, nil)
	}
}

// worldFree are the packages that run in the simulator or under crash tests: the
// clock, the disk and the network reach them through internal/env alone.
var worldFree = []string{"blockdev", "replication", "metadata", "fencing"}

// world is what they must not import.
var world = []string{"os", "os/exec", "net", "io/ioutil", "path/filepath", "golang.org/x/sys/unix", "math/rand"}

// worldless are the names of two packages that they may use: of syscall the
// numbers of errors and the flags of Open, of time the lengths, which no clock is
// behind.
var worldless = map[string]*regexp.Regexp{
	"syscall": regexp.MustCompile(`^(E[A-Z0-9]+|Errno|O_[A-Z]+)$`),
	"time":    regexp.MustCompile(`^(Duration|Nanosecond|Microsecond|Millisecond|Second|Minute|Hour)$`),
}

// worldAllowed are the files that may, and why.
var worldAllowed = map[string][]string{
	"blockdev/fault.go":         {"time"},                       // delays are its purpose; it is for tests
	"fencing/agent.go":          {"os/exec", "syscall", "time"}, // runs the programs that switch machines off, for operators; no promise depends on it
	"blockdev/store_destage.go": {"time"},                       // when the background goroutine wakes; Manual mode has none
	"replication/conn.go":       {"net"},                        // takes a connection that others made; the simulator steps the core instead
}

func TestWorldOnlyThroughEnv(t *testing.T) {
	for _, f := range repository(t).goes {
		if f.isTest || !slices.Contains(worldFree, f.dir) {
			continue
		}
		for _, p := range f.imports() {
			if slices.Contains(world, p) && !slices.Contains(worldAllowed[f.path], p) {
				t.Errorf("%s imports %s: package %s must reach the world through internal/env", f.path, p, f.dir)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if !ok || !slices.Contains(f.imports(), x.Name) || slices.Contains(worldAllowed[f.path], x.Name) {
				return true
			}
			if names := worldless[x.Name]; names != nil && !names.MatchString(s.Sel.Name) {
				t.Errorf("%s uses %s.%s: package %s must reach the world through internal/env", f.path, x.Name, s.Sel.Name, f.dir)
			}
			return true
		})
	}
	for file, list := range worldAllowed {
		for _, p := range list {
			uses := func(f *goFile) bool { return f.path == file && slices.Contains(f.imports(), p) }
			if !slices.ContainsFunc(repository(t).goes, uses) {
				t.Errorf("%s no longer imports %s: take the exception away", file, p)
			}
		}
	}
}
