package arch

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maxLines is how long a Go file may be. Good ones have 100 to 200 lines.
const maxLines = 700

// longFiles may be longer; the reason stands beside the name.
var longFiles = []string{}

func TestNoGiantFiles(t *testing.T) {
	for _, f := range repository(t).goes {
		long := f.lines > maxLines
		switch listed := slices.Contains(longFiles, f.path); {
		case long && !listed && !f.generated:
			t.Errorf("%s has %d lines (limit %d): split it by what changes together", f.path, f.lines, maxLines)
		case !long && listed:
			t.Errorf("%s is short enough now: take it off the list", f.path)
		}
	}
}

// unfinished matches marks of unfinished work; written so that this file has none.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`)

// textFiles are the kinds of files that people write.
var textFiles = []string{".go", ".md", ".sh", ".proto", ".toml", ".fio", ".service", ".yml", ".yaml", ""}

func TestNothingIsLeftUnfinished(t *testing.T) {
	for _, p := range repository(t).paths {
		if !slices.Contains(textFiles, path.Ext(p)) {
			continue
		}
		for i, line := range strings.Split(read(t, p), "\n") {
			if mark := unfinished.FindString(line); mark != "" {
				t.Errorf("%s:%d: %s: do it, or open an issue and say here what is so", p, i+1, mark)
			}
		}
	}
}
