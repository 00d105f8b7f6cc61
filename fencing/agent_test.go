package fencing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"blkd/internal/env"
)

// script makes an agent of a shell script.
func script(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fence_script")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRunAgent(t *testing.T) {
	t.Setenv("BLKD_SECRET", "x")
	r, err := RunAgent(t.Context(), script(t, `cat; echo "args $# secret $BLKD_SECRET" >&2; exit 5`), "action=off\n")
	if want := (Result{Exit: 5, Stdout: "action=off\n", Stderr: "args 0 secret \n"}); err != nil || r != want {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRunAgentBoundsOutput(t *testing.T) {
	r, err := RunAgent(t.Context(), script(t, `head -c 1000000 /dev/zero`), "")
	if err != nil || len(r.Stdout) != maxAgentOutput {
		t.Errorf("%d bytes, %v", len(r.Stdout), err)
	}
}

func TestRunAgentErrors(t *testing.T) {
	for _, agent := range []string{"fence_there_is_no_such_agent", "/nonexistent/fence_x"} {
		if _, err := RunAgent(t.Context(), agent, ""); !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "apt install") {
			t.Errorf("%s: %v", agent, err)
		}
	}
	if r, err := RunAgent(t.Context(), script(t, "kill -9 $$"), ""); err == nil {
		t.Errorf("killed, and the result is %+v", r)
	}
}

// TestRunAgentKillsAll: what the agent started ends with it.
func TestRunAgentKillsAll(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for range 3000 {
			if b, err := os.ReadFile(pidFile); err == nil && len(b) > 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	_, err := RunAgent(ctx, script(t, fmt.Sprintf("sleep 1000 & echo $! >%[1]s.new; mv %[1]s.new %[1]s; wait", pidFile)), "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) || isZombie(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d lives on", pid)
}

// isZombie: killed, and nobody has collected it where no init does.
func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// TestFenceDummy runs Debian's agent for tests.
func TestFenceDummy(t *testing.T) {
	const agent = "fence_dummy"
	if _, err := findAgent(agent); err != nil {
		t.Skipf("%v", err)
	}
	status := filepath.Join(t.TempDir(), "status")
	f, err := NewFencer(Config{Attempts: 1, Node: map[string]Device{
		"n1":    {Agent: agent, Parameters: map[string]string{"status_file": status}},
		"typo":  {Agent: agent, Parameters: map[string]string{"statusfile": status}},
		"stuck": {Agent: agent, Parameters: map[string]string{"type": "fail", "power_timeout": "1"}},
	}}, RunAgent, env.SystemClock{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := f.Check(ctx, "n1"); err != nil {
		t.Error(err)
	}
	if err := f.Check(ctx, "typo"); err == nil || !strings.Contains(err.Error(), "has no parameter statusfile") {
		t.Error(err)
	}
	for _, c := range []struct {
		action Action
		want   Power
	}{{On, PowerOn}, {On, PowerOn}, {Off, PowerOff}, {Off, PowerOff}, {Reboot, PowerOn}} {
		out, err := f.Switch(ctx, "n1", c.action)
		power, perr := f.Power(ctx, "n1")
		if err != nil || perr != nil || out.Power != c.want || power != c.want {
			t.Errorf("%s: %+v, then %v; %v, %v", c.action, out, power, err, perr)
		}
	}
	out, err := f.Switch(ctx, "stuck", Off)
	if err == nil || !strings.Contains(err.Error(), "Timed out waiting to power OFF") || out.Attempts != 1 {
		t.Errorf("%+v, %v", out, err)
	}
}
