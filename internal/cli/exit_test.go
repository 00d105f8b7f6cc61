package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"

	"blkd/internal/api"
)

func TestExitCodes(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		want Code
	}{
		{nil, errors.New("unknown flag"), Usage},
		{nil, &Error{Code: Conflict}, Conflict},
		{nil, fmt.Errorf("wrapped: %w", &Error{Code: Refused}), Refused},
		{nil, called(errors.New("boom")), Failed},
		{nil, called(api.Errorf(codes.InvalidArgument, "n1", "", "x")), Usage},
		{nil, called(api.Errorf(codes.NotFound, "n1", "", "x")), NotFound},
		{nil, called(api.Errorf(codes.DeadlineExceeded, "", "", "x")), TimedOut},
		{nil, called(api.Errorf(codes.Unavailable, "n1", "", "2 of 3 voters are missing")), NoQuorum},
		{nil, called(api.Errorf(codes.Unavailable, "", "", "connection refused")), Failed},
		{nil, called(api.Errorf(codes.FailedPrecondition, "n1", "", "x")), Refused},
		{nil, called(api.Errorf(codes.Aborted, "n1", "", "x")), Conflict},
		{nil, called(api.Errorf(codes.AlreadyExists, "n1", "", "x")), Conflict},
		{nil, called(api.Errorf(codes.Internal, "n1", "", "x")), Failed},
		{gone, called(api.Errorf(codes.Canceled, "", "", "x")), Interrupted},
	} {
		ctx := tc.ctx
		if ctx == nil {
			ctx = context.Background()
		}
		if got := explain(ctx, tc.err).Code; got != tc.want {
			t.Errorf("%v: exit code %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestErrorForPeople(t *testing.T) {
	var out bytes.Buffer
	e := explain(context.Background(), called(api.Errorf(codes.NotFound, "n1", "blkctl volume list", "there is no volume %q", "x")))
	e.print(&out, false)
	want := "blkctl: there is no volume \"x\" (node n1)\n  next: blkctl volume list\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// commands lists every command below c, and c.
func commands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, commands(sub)...)
	}
	return all
}

func TestHelpNamesEveryExitCode(t *testing.T) {
	help := New(Streams{}).Long
	for _, code := range []Code{OK, Failed, Usage, NotFound, TimedOut, NoQuorum, Refused, Conflict, Degraded, Interrupted} {
		if !strings.Contains(help, fmt.Sprintf("\n  %3d  ", code)) {
			t.Errorf("blkctl --help does not name exit code %d", code)
		}
	}
}

func TestEveryCommandIsDescribed(t *testing.T) {
	for _, c := range commands(New(Streams{})) {
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: flag --%s has no description", c.CommandPath(), f.Name)
			}
		})
	}
}

func TestFlagsFromEnvironment(t *testing.T) {
	set := func(env map[string]string, args ...string) (string, error) {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		dir := fs.String("data-dir", "default", "")
		fs.Int("n", 0, "")
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		err := fromEnvironment(fs, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
		return *dir, err
	}
	env := map[string]string{"BLKCTL_DATA_DIR": "env"}
	if got, err := set(env); got != "env" || err != nil {
		t.Errorf("environment: %q, %v", got, err)
	}
	if got, err := set(env, "--data-dir=flag"); got != "flag" || err != nil {
		t.Errorf("flag over environment: %q, %v", got, err)
	}
	if _, err := set(map[string]string{"BLKCTL_N": "many"}); err == nil || !strings.Contains(err.Error(), "BLKCTL_N") {
		t.Errorf("bad value: %v", err)
	}
}
