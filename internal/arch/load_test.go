package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// root is the module's directory, seen from this package.
const root = "../.."

// module is the prefix of the import paths of this module.
const module = "blkd/"

// goFile is a parsed Go file.
type goFile struct {
	path      string // from the root, with slashes
	dir       string // package directory: the import path without the module
	ast       *ast.File
	lines     int
	isTest    bool
	generated bool
}

// imports returns the file's import paths.
func (f *goFile) imports() []string {
	var list []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			list = append(list, p)
		}
	}
	return list
}

// tree is what the tests look at: every file that belongs to the repository.
type tree struct {
	fset  *token.FileSet
	paths []string // of all files, sorted
	goes  []*goFile
	err   error
}

// skipped directories hold what builds and tests leave behind, raw data, or
// modules of their own.
var skipped = regexp.MustCompile(`^(\.git|bin|out|testdata|node_modules|third_party)$`)

var load = sync.OnceValue(func() *tree {
	t := &tree{fset: token.NewFileSet()}
	t.err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != root && skipped.MatchString(d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		t.paths = append(t.paths, rel)
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		return t.addGo(name, rel)
	})
	slices.Sort(t.paths)
	return t
})

func (t *tree) addGo(name, rel string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	parsed, err := parser.ParseFile(t.fset, rel, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	t.goes = append(t.goes, &goFile{
		path: rel, dir: path.Dir(rel), ast: parsed,
		lines:     strings.Count(string(text), "\n"),
		isTest:    strings.HasSuffix(rel, "_test.go"),
		generated: ast.IsGenerated(parsed),
	})
	return nil
}

// repository loads the tree once for all tests.
func repository(t *testing.T) *tree {
	t.Helper()
	r := load()
	if r.err != nil {
		t.Fatal(r.err)
	}
	if len(r.goes) < 20 {
		t.Fatalf("found only %d Go files below %s", len(r.goes), root)
	}
	return r
}

// read returns a file's text.
func read(t *testing.T, rel string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(rel)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
