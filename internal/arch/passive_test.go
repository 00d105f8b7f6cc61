package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"testing"
)

// passive are the files that a simulator steps: what they do may depend on nothing
// but what they are told. The path of each is a pattern.
var passive = []string{
	"replication/core*.go", "replication/message.go", "replication/queue.go", "replication/types.go",
	"metadata/apply*.go", "metadata/core*.go", "metadata/detector*.go", "metadata/events*.go", "metadata/failover.go",
	"metadata/history.go", "metadata/place*.go", "metadata/state*.go", "metadata/steward*.go",
}

// passiveAllowed are those of them that may range over maps or use a package, and why.
var passiveAllowed = map[string][]string{
	"metadata/core_log.go":     {"context"},     // which slog asks for
	"metadata/core_process.go": {"sync"},        // takes a lock while it changes the state; it is handed over
	"metadata/core_read.go":    {"crypto/rand"}, // tells the reads of a run from those of earlier ones; tests replace its source
}

// notPassive are the packages whose use makes a file depend on something else.
var notPassive = []string{"crypto/rand", "math/rand", "math/rand/v2", "sync", "sync/atomic", "runtime", "context"}

func TestPassiveFilesArePassive(t *testing.T) {
	r := repository(t)
	maps := map[string]map[string]bool{} // by package: the fields that are maps
	for _, f := range r.goes {
		if maps[f.dir] == nil {
			maps[f.dir] = map[string]bool{}
		}
		if !f.isTest {
			mapFields(f.ast, maps[f.dir])
		}
	}
	seen := 0
	for _, f := range r.goes {
		if f.isTest || !slices.ContainsFunc(passive, func(p string) bool { ok, _ := path.Match(p, f.path); return ok }) {
			continue
		}
		seen++
		for _, p := range f.imports() {
			if slices.Contains(notPassive, p) && !slices.Contains(passiveAllowed[f.path], p) {
				t.Errorf("%s imports %s: what it does would not depend on its input alone", f.path, p)
			}
		}
		for _, x := range unsteady(f.ast, maps[f.dir]) {
			if !slices.Contains(passiveAllowed[f.path], x.what) {
				t.Errorf("%s: %s: a simulation would not replay", r.fset.Position(x.at), x.what)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d files are passive", seen)
	}
}

// finding is something that a passive file must not do.
type finding struct {
	what string
	at   token.Pos
}

// mapFields notes the fields, and the variables of the package, that are maps.
func mapFields(file *ast.File, into map[string]bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				note(into, f.Type, f.Names)
			}
		}
		return true
	})
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok {
			for _, s := range g.Specs {
				if v, ok := s.(*ast.ValueSpec); ok {
					note(into, v.Type, v.Names)
					for i, x := range v.Values {
						note(into, madeOf(x), v.Names[i:i+1])
					}
				}
			}
		}
	}
}

func note(into map[string]bool, typ ast.Expr, names []*ast.Ident) {
	if _, ok := typ.(*ast.MapType); ok {
		for _, n := range names {
			into[n.Name] = true
		}
	}
}

// madeOf is the type of a literal, or of what make makes; nil for anything else.
func madeOf(x ast.Expr) ast.Expr {
	switch x := x.(type) {
	case *ast.CompositeLit:
		return x.Type
	case *ast.CallExpr:
		if f, ok := x.Fun.(*ast.Ident); ok && f.Name == "make" {
			return x.Args[0]
		}
	}
	return nil
}

// unsteady finds go statements, selects, and ranges over what is known to be a map: a
// field, or a parameter or variable of the same function. A range over keys that are
// sorted first is none.
func unsteady(file *ast.File, fields map[string]bool) (list []finding) {
	for _, d := range file.Decls {
		locals := map[string]bool{}
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncType:
				for _, p := range n.Params.List {
					note(locals, p.Type, p.Names)
				}
			case *ast.AssignStmt:
				for i, x := range n.Rhs {
					if id, ok := n.Lhs[min(i, len(n.Lhs)-1)].(*ast.Ident); ok {
						note(locals, madeOf(x), []*ast.Ident{id})
					}
				}
			case *ast.ValueSpec:
				note(locals, n.Type, n.Names)
			case *ast.GoStmt:
				list = append(list, finding{"a go statement", n.Pos()})
			case *ast.SelectStmt:
				list = append(list, finding{"a select", n.Pos()})
			case *ast.RangeStmt:
				if rangesMap(n.X, fields, locals) {
					list = append(list, finding{"a range over a map", n.Pos()})
				}
			}
			return true
		})
	}
	return list
}

func rangesMap(x ast.Expr, fields, locals map[string]bool) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return locals[x.Name] || fields[x.Name]
	case *ast.SelectorExpr:
		return fields[x.Sel.Name]
	case *ast.CallExpr: // maps.Keys and others, bare
		f, ok := x.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		p, ok := f.X.(*ast.Ident)
		return ok && p.Name == "maps"
	}
	_, ok := madeOf(x).(*ast.MapType)
	return ok
}

// TestUnsteadyIsFound shows that the check above can fail.
func TestUnsteadyIsFound(t *testing.T) {
	const src = `package p
type a struct { m map[int]int; s []int }
var v = map[int]int{}
func f(x *a, p map[int]int) {
	for range x.m {}
	for range x.s {}
	for range v {}
	for range p {}
	q := make(map[int]int)
	for range q {}
	for range maps.Keys(q) {}
	for range slices.Sorted(maps.Keys(q)) {}
	go f(x, p)
	select {}
}`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	mapFields(file, fields)
	var lines []int
	for _, x := range unsteady(file, fields) {
		lines = append(lines, fset.Position(x.at).Line)
	}
	if want := []int{5, 7, 8, 10, 11, 13, 14}; !slices.Equal(lines, want) {
		t.Errorf("found in lines %v, want %v", lines, want)
	}
}
