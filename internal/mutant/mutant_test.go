package mutant

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for i, info := range All() {
		if int(info.ID) != i {
			t.Errorf("entry %d is about bug %d", i, info.ID)
		}
		pkg, bug, ok := strings.Cut(info.Name, "/")
		if !ok || pkg == "" || bug == "" || seen[info.Name] {
			t.Errorf("name %q", info.Name)
		}
		seen[info.Name] = true
		if !strings.HasSuffix(info.Text, ".") || strings.Contains(info.Text, "\n") {
			t.Errorf("%v: text %q is not one sentence", info.ID, info.Text)
		}
		if id, err := Parse(info.ID.String()); err != nil || id != info.ID {
			t.Errorf("%v parses as %v, %v", info.ID, id, err)
		}
	}
	if _, err := Parse("store/none"); err == nil {
		t.Error("parsed a name that does not exist")
	}
	if got := ID(200).String(); got != "mutant(200)" {
		t.Error(got)
	}
}

func TestAllAreOffAtFirst(t *testing.T) {
	for _, info := range All() {
		if On(info.ID) {
			t.Errorf("%v is on", info.ID)
		}
	}
}
