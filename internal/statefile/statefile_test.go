package statefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveAndLoad(t *testing.T) {
	type state struct{ Volume string }
	file := filepath.Join(t.TempDir(), "pg.json")
	if _, err := Load[state](file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	for _, name := range []string{"pg", "logs"} {
		if err := Save(file, state{name}); err != nil {
			t.Fatal(err)
		}
		if s, err := Load[state](file); err != nil || s.Volume != name {
			t.Errorf("%+v, %v instead of %s", s, err, name)
		}
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load[state](file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken file: %v", err)
	}
}

func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dir", "pg.lock")
	f, err := Lock(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(file); !errors.Is(err, ErrLocked) {
		t.Errorf("a second lock: %v", err)
	}
	f.Close()
	if f, err = Lock(file); err != nil {
		t.Fatal(err)
	}
	f.Close()
}
