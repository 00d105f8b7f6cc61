package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// These tests show that the checks above can fail.

func TestUndocumentedIsFound(t *testing.T) {
	const src = `package p

type A struct{}

// B has words.
type B struct{}

const C = 1

const D = 2 // has words

// A group.
const (
	E = 3
	F
)

type (
	G int
	// H has words.
	H int
)

const (
	I = iota
	J
)
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range f.Decls {
		for _, s := range d.(*ast.GenDecl).Specs {
			if name, ok := undocumented(d.(*ast.GenDecl), s); ok {
				got = append(got, name)
			}
		}
	}
	if want := []string{"A", "C", "G", "I"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestReceivers(t *testing.T) {
	const src = `package p
func A() {}
func (b B) M() {}
func (b *B[T]) N() {}
func (c *c) M() {}
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []bool
	for _, d := range f.Decls {
		got = append(got, receiverExported(d.(*ast.FuncDecl)))
	}
	if want := []bool{true, true, true, false}; !slices.Equal(got, want) {
		t.Errorf("exported: %v, want %v", got, want)
	}
}

func TestPatterns(t *testing.T) {
	if unfinished.FindString("// TO"+"DO: later") == "" || unfinished.FindString("mastodon") != "" {
		t.Error("marks of unfinished work")
	}
	if !repoPath.MatchString("blockdev/device.go") || repoPath.MatchString("go test ./...") || repoPath.MatchString("README") {
		t.Error("paths")
	}
	if got := anchors("# The `first` one, again\n```\n# not\n```\n## Second\n"); !slices.Equal(got, []string{"the-first-one-again", "second"}) {
		t.Errorf("anchors: %q", got)
	}
	if m := link.FindStringSubmatch("see [it](a/b.md#c), then"); len(m) != 2 || m[1] != "a/b.md#c" {
		t.Errorf("link: %q", m)
	}
	if m := target.FindStringSubmatch("x\nbuild: go.mod"); len(m) != 2 || m[1] != "build" {
		t.Errorf("target: %q", m)
	}
}

func TestExists(t *testing.T) {
	r := &tree{paths: []string{"a/b/c.go", "d.md"}}
	for name, want := range map[string]bool{
		"a": true, "a/b": true, "a/b/c.go": true, "a/*/c.go": true, "d.md": true, "bin/x": true,
		"b": false, "a/c.go": false, "a/b/d.go": false, "../d.md": false,
	} {
		if got := r.exists(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
