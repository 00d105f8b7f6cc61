package fencing

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"
)

// ErrNotInstalled tells that there is no program of an agent's name.
var ErrNotInstalled = errors.New("the agent is not installed")

const (
	maxAgentOutput = 256 << 10 // of each stream; metadata are some tens of KiB
	agentPath      = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	killDelay      = time.Second
)

// RunAgent is the Runner that starts programs. Parameters go through standard input,
// so that no list of processes shows them. When ctx ends, the agent and all that it
// started are killed.
func RunAgent(ctx context.Context, agent, stdin string) (Result, error) {
	program, err := findAgent(agent)
	if err != nil {
		return Result{}, err
	}
	cmd := exec.CommandContext(ctx, program)
	var stdout, stderr head
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.Env = []string{"PATH=" + agentPath, "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay // for children that left the group and hold the pipes
	err = cmd.Run()
	r := Result{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return Result{}, ctx.Err()
	case err == nil, errors.As(err, &exit) && exit.Exited(), errors.Is(err, exec.ErrWaitDelay):
		return r, nil
	}
	return Result{}, fmt.Errorf("run %s: %w", program, err)
}

// findAgent looks where agents are, whatever PATH the service has.
func findAgent(agent string) (string, error) {
	candidates := []string{agent}
	if !strings.Contains(agent, "/") {
		candidates = nil
		for _, dir := range strings.Split(agentPath, ":") {
			candidates = append(candidates, path.Join(dir, agent))
		}
	}
	for _, c := range candidates {
		if found, err := exec.LookPath(c); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("%w: %s; on Debian: apt install fence-agents", ErrNotInstalled, agent)
}

// head keeps the beginning of what is written to it.
type head struct{ strings.Builder }

func (h *head) Write(p []byte) (int, error) {
	if room := maxAgentOutput - h.Len(); room > 0 {
		h.Builder.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
