package arch

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryPackageHasAComment(t *testing.T) {
	comments := map[string]string{} // package directory to comment
	names := map[string]string{}
	for _, f := range repository(t).goes {
		if !f.isTest {
			names[f.dir] = f.ast.Name.Name
			if f.ast.Doc != nil {
				comments[f.dir] += f.ast.Doc.Text()
			}
		}
	}
	for dir, name := range names {
		want := "Package " + name + " "
		if name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(comments[dir], want) {
			t.Errorf("package %s: its comment does not begin with %q", dir, want)
		}
	}
}

// obvious methods need no words.
var obvious = []string{"Error"}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	r := repository(t)
	for _, f := range r.goes {
		if f.isTest || f.generated {
			continue
		}
		missing := func(n ast.Node, name string) {
			t.Errorf("%s: %s has no comment", r.fset.Position(n.Pos()), name)
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if d.Doc == nil && d.Name.IsExported() && receiverExported(d) && !slices.Contains(obvious, name) {
					missing(d, name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if name, ok := undocumented(d, s); ok {
						missing(s, name)
					}
				}
			}
		}
	}
}

// receiverExported tells whether a function is one, or a method of an exported
// type.
func receiverExported(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	for {
		switch u := t.(type) {
		case *ast.StarExpr:
			t = u.X
		case *ast.IndexExpr:
			t = u.X
		case *ast.IndexListExpr:
			t = u.X
		case *ast.Ident:
			return u.IsExported()
		default:
			return false
		}
	}
}

// undocumented returns the exported name of a declaration without a comment. In
// a group of constants or variables the group's comment is enough.
func undocumented(d *ast.GenDecl, s ast.Spec) (name string, ok bool) {
	switch s := s.(type) {
	case *ast.TypeSpec:
		return s.Name.Name, s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || d.Lparen.IsValid())
	case *ast.ValueSpec:
		if d.Doc != nil || s.Doc != nil || s.Comment != nil {
			return "", false
		}
		for i, n := range s.Names {
			implied := d.Lparen.IsValid() && i == 0 && len(s.Values) == 0 // continues an iota group
			if n.IsExported() && !implied {
				return n.Name, true
			}
		}
	}
	return "", false
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code     = regexp.MustCompile("`([^`\n]+)`")
	repoPath = regexp.MustCompile(`^[\w.*-]+(/[\w.*-]+)+/?$`)
	makeCall = regexp.MustCompile(`\bmake ([a-z][a-z-]*)\b`)
	fenced   = regexp.MustCompile("(?ms)^```.*?^```")
	heading  = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	target   = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
)

// TestLinksResolve checks the relative links of every page, and their anchors.
func TestLinksResolve(t *testing.T) {
	r := repository(t)
	for _, page := range r.pages() {
		text := fenced.ReplaceAllString(read(t, page), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, ":") { // https:, mailto:
				continue
			}
			file := page
			if to != "" {
				file = path.Join(path.Dir(page), to)
			}
			switch {
			case !r.exists(file):
				t.Errorf("%s links to %s, which does not exist", page, m[1])
			case anchor != "" && strings.HasSuffix(file, ".md") && !slices.Contains(anchors(read(t, file)), anchor):
				t.Errorf("%s links to %s, which has no such heading", page, m[1])
			}
		}
	}
}

// TestPathsInDocsExist checks what pages set as code and what looks like a path
// into this repository.
func TestPathsInDocsExist(t *testing.T) {
	r := repository(t)
	for _, page := range r.pages() {
		for _, m := range code.FindAllStringSubmatch(fenced.ReplaceAllString(read(t, page), ""), -1) {
			name := strings.TrimPrefix(m[1], "./")
			top, _, _ := strings.Cut(name, "/")
			if repoPath.MatchString(name) && r.exists(top) && !r.exists(strings.TrimSuffix(name, "/")) {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
}

// TestMakeTargetsInDocsExist checks every "make target" that a page names.
func TestMakeTargetsInDocsExist(t *testing.T) {
	r := repository(t)
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, page := range r.pages() {
		text := read(t, page)
		for _, m := range code.FindAllStringSubmatch(text, -1) {
			checkMake(t, page, m[1], targets)
		}
		for _, block := range fenced.FindAllString(text, -1) {
			checkMake(t, page, block, targets)
		}
	}
}

func checkMake(t *testing.T, page, text string, targets map[string]bool) {
	t.Helper()
	for _, m := range makeCall.FindAllStringSubmatch(text, -1) {
		if !targets[m[1]] {
			t.Errorf("%s says make %s, which the Makefile does not have", page, m[1])
		}
	}
}

// pages are the Markdown files.
func (r *tree) pages() []string {
	var list []string
	for _, p := range r.paths {
		if strings.HasSuffix(p, ".md") {
			list = append(list, p)
		}
	}
	return list
}

// exists tells whether a file, a directory or a pattern names something. What
// is skipped on loading is taken on trust.
func (r *tree) exists(name string) bool {
	if name == "." || slices.ContainsFunc(strings.Split(name, "/"), skipped.MatchString) {
		return true
	}
	return slices.ContainsFunc(r.paths, func(p string) bool {
		for {
			if ok, err := path.Match(name, p); ok && err == nil {
				return true
			}
			if p = path.Dir(p); p == "." {
				return false
			}
		}
	})
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchors are the names that headings get on the web.
func anchors(text string) []string {
	var list []string
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		a := notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), "")
		list = append(list, strings.ReplaceAll(a, " ", "-"))
	}
	return list
}
