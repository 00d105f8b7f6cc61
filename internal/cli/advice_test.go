package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// mention is a command line of blkctl in a text: it ends with the first character
// that no command line has.
var mention = regexp.MustCompile(`\bblkctl((?: +[^\s,;:()"'` + "`" + `|…]+)+)`)

// word is a name of a command; whatever comes after is an argument, or prose.
var word = regexp.MustCompile(`^[a-z][a-z-]*$`)

// placeholder is what follows a command, and no word of a sentence: %s, --flag, NAME.
var placeholder = regexp.MustCompile(`^(%|-|[A-Z]{2})`)

// TestAdviceExists: every command and flag that a message or a page names exists.
// An operator in need types what stands there.
func TestAdviceExists(t *testing.T) {
	root := New(Streams{})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	found := 0
	eachText(t, "../..", func(where, text string) {
		for _, m := range mention.FindAllStringSubmatch(text, -1) {
			if problem := check(root, strings.Fields(m[1])); problem != "" {
				t.Errorf("%s: %q: %s", where, strings.TrimSpace(m[0]), problem)
			}
			found++
		}
	})
	if found < 100 {
		t.Errorf("only %d command lines were found", found)
	}
}

// check says what is wrong with the arguments of blkctl; empty: nothing.
func check(cmd *cobra.Command, args []string) string {
	for i, arg := range args {
		arg = strings.TrimRight(arg, ".?!]}")
		flag, isFlag := strings.CutPrefix(arg, "--")
		flag, _, _ = strings.Cut(flag, "=")
		switch {
		case isFlag:
			if flag != "" && flag != "help" && cmd.Flags().Lookup(flag) == nil && cmd.InheritedFlags().Lookup(flag) == nil {
				return "there is no flag --" + flag + " of " + cmd.CommandPath()
			}
		case cmd.HasSubCommands() && word.MatchString(arg):
			sub, _, err := cmd.Find([]string{arg})
			switch {
			case err == nil && sub != cmd:
				cmd = sub
			case i == 0 && len(args) > 1 && placeholder.MatchString(args[1]):
				return "there is no command " + arg + " of " + cmd.CommandPath()
			default:
				return "" // a sentence that begins with a command
			}
		}
	}
	return ""
}

// eachText visits the strings of all Go files but tests, and all pages.
func eachText(t *testing.T, root string, visit func(where, text string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (name == "testdata" || strings.HasPrefix(name, ".") && name != ".."):
			return filepath.SkipDir
		case strings.HasSuffix(name, ".md"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			visit(path, string(text))
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, ".pb.go"):
			return eachString(path, visit)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func eachString(path string, visit func(where, text string)) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if text, err := strconv.Unquote(l.Value); err == nil {
				visit(set.Position(l.Pos()).String(), text)
			}
		}
		return true
	})
	return nil
}
