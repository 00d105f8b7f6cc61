package errors

import (
	"io/fs"
	"os"
	"testing"

	"github.com/cockroachdb/errors/oserror"
)

var corrupt = New("corruption")

func TestIs(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		text string
		is   bool
	}{
		"itself":       {corrupt, "corruption", true},
		"another":      {New("corruption"), "corruption", false},
		"wrapped":      {Wrapf(Wrap(corrupt, "block"), "file %d", Safe(7)), "file 7: block: corruption", true},
		"format":       {Errorf("file: %w", corrupt), "file: corruption", true},
		"marked":       {Mark(New("bad block"), corrupt), "bad block", true},
		"marked twice": {Wrap(Mark(Mark(New("bad block"), corrupt), New("x")), "y"), "y: bad block", true},
		"mark of wrap": {Mark(New("bad block"), Wrap(corrupt, "z")), "bad block", true},
		"first":        {CombineErrors(corrupt, New("later")), "corruption", true},
		"second":       {CombineErrors(New("early"), corrupt), "early", false},
		"only second":  {CombineErrors(nil, corrupt), "corruption", true},
		"secondary":    {WithSecondaryError(New("early"), corrupt), "early", false},
		"assertion":    {AssertionFailedf("broken: %w", corrupt), "broken: corruption", true},
	} {
		if tc.err.Error() != tc.text || Is(tc.err, corrupt) != tc.is {
			t.Errorf("%s: %q, is %v", name, tc.err, Is(tc.err, corrupt))
		}
	}
}

func TestNilStaysNil(t *testing.T) {
	for name, err := range map[string]error{
		"wrap": Wrap(nil, "x"), "wrapf": Wrapf(nil, "x"), "mark": Mark(nil, corrupt), "stack": WithStack(nil), "combine": CombineErrors(nil, nil),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAs(t *testing.T) {
	_, err := os.Open("/nowhere/at/all")
	err = Mark(Wrap(err, "open"), corrupt)
	var path *fs.PathError
	if !As(err, &path) || path.Path != "/nowhere/at/all" || !oserror.IsNotExist(err) || oserror.IsExist(err) || UnwrapAll(err) == err {
		t.Errorf("%v", err)
	}
	if err := AssertionFailedf("x"); !IsAssertionFailure(err) || IsAssertionFailure(Mark(corrupt, err)) {
		t.Error(err)
	}
}
