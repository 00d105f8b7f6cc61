package service

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Action is what is done with a step.
type Action string

// The actions. Status succeeds if the step runs.
const (
	Start  Action = "start"
	Stop   Action = "stop"
	Status Action = "status"
)

// Runner does an action with a step, until it has worked or failed, or ctx ends. The
// variables env are added to its environment.
type Runner interface {
	Run(ctx context.Context, s *Step, a Action, env []string) error
}

// Programs runs steps as programs of this machine. What they print goes where this
// process prints: it may outlive them.
type Programs struct {
	Systemctl string // default systemctl
	OCFRoot   string // default /usr/lib/ocf
}

// killWait is how long a program may take to end once its process group was killed.
const killWait = 5 * time.Second

// Run implements Runner. When ctx ends, the program's process group is killed; units go on
// in what systemd does.
func (p *Programs) Run(ctx context.Context, s *Step, a Action, env []string) error {
	argv, more := p.command(s, a)
	if argv == nil {
		return nil // nobody can tell
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), env...), more...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", a, s.Name, err)
	}
	return nil
}

// command is the command line of an action, and what its environment needs; nil: there
// is nothing to run.
func (p *Programs) command(s *Step, a Action) (argv, env []string) {
	switch {
	case s.Unit != "":
		systemctl := p.Systemctl
		if systemctl == "" {
			systemctl = "systemctl"
		}
		if a == Status {
			return []string{systemctl, "is-active", "--quiet", s.Unit}, nil
		}
		return []string{systemctl, string(a), s.Unit}, nil
	case s.OCF != "":
		return p.agent(s, a)
	}
	line := map[Action]string{Start: s.Start, Stop: s.Stop, Status: s.Status}[a]
	if line == "" {
		return nil, nil
	}
	return []string{"sh", "-c", line}, nil
}

// agent runs an OCF agent as Pacemaker does.
func (p *Programs) agent(s *Step, a Action) (argv, env []string) {
	root := p.OCFRoot
	if root == "" {
		root = "/usr/lib/ocf"
	}
	action, limit := string(a), time.Duration(s.StartTimeout)
	switch a {
	case Stop:
		limit = time.Duration(s.StopTimeout)
	case Status:
		action = "monitor"
	}
	env = []string{"OCF_ROOT=" + root, "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=0", "__OCF_ACTION=" + action,
		"OCF_RESOURCE_INSTANCE=" + strings.ReplaceAll(s.Name, ":", "-"), "OCF_RESOURCE_TYPE=" + s.OCF[strings.Index(s.OCF, ":")+1:],
		"OCF_RESOURCE_PROVIDER=" + s.OCF[:strings.Index(s.OCF, ":")], fmt.Sprintf("OCF_RESKEY_CRM_meta_timeout=%d", limit.Milliseconds())}
	if a == Status { // else agents take it for the first look at a node, before anything was started
		env = append(env, "OCF_RESKEY_CRM_meta_interval=10000")
	}
	for key, value := range s.Params {
		env = append(env, "OCF_RESKEY_"+key+"="+value)
	}
	provider, name, _ := strings.Cut(s.OCF, ":")
	return []string{filepath.Join(root, "resource.d", provider, name), action}, env
}
