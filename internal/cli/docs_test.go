package cli

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"blkd/internal/drill"
)

// jsonNames lists the names of all fields below a type.
func jsonNames(t reflect.Type, into map[string]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		jsonNames(t.Elem(), into)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Anonymous {
				jsonNames(f.Type, into)
				continue
			}
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				into[name] = true
				jsonNames(f.Type, into)
			}
		}
	}
}

func TestJSONPageNamesEveryField(t *testing.T) {
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	names := map[string]bool{}
	for _, v := range []any{Status{}, VolumeList{}, Deleted{}, Verified{}, Versions{}, Error{},
		Cluster{}, NodeList{}, History{}, Why{}, Waited{}, Saved{}, Transferred{}, Event{}, PKI{}, Promotion{}, VolumeRole{}, Service{}, ReplicaList{}, Compared{}, drill.Checked{}, drill.Report{}} {
		jsonNames(reflect.TypeOf(v), names)
	}
	if len(names) < 100 {
		t.Fatalf("only %d fields were found", len(names))
	}
	for name := range names {
		if !strings.Contains(page, "`"+name+"`") && !strings.Contains(page, `"`+name+`"`) {
			t.Errorf("docs/json.md does not describe %s", name)
		}
	}
	for _, x := range exitHelp {
		if row := fmt.Sprintf("| %d | %s |", x.code, x.text); !strings.Contains(strings.ReplaceAll(page, "`", ""), row) {
			t.Errorf("docs/json.md lacks the row %s", row)
		}
	}
}
