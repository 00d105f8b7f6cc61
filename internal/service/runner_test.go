package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPrograms: commands, agents and units are run as they should be, with the variables
// of the service, and told when they fail.
func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return file
	}
	said := filepath.Join(dir, "said")
	p := &Programs{
		OCFRoot:   dir,
		Systemctl: script("systemctl", `echo systemctl "$*" $BLKD_ATTACHMENT >>`+said+`; [ "$1" != stop ]`),
	}
	script("resource.d/heartbeat/Dummy", `echo "$1" $__OCF_ACTION $OCF_RESKEY_fake $OCF_RESKEY_CRM_meta_timeout $OCF_RESKEY_CRM_meta_interval $OCF_RESOURCE_TYPE $BLKD_ATTACHMENT >>`+said)
	env := []string{"BLKD_ATTACHMENT=7"}
	unit, agent := &Step{Name: "db", Unit: "pg.service"}, &Step{Name: "d", OCF: "heartbeat:Dummy", Params: map[string]string{"fake": "x"}}
	if err := agent.complete(); err != nil {
		t.Fatal(err)
	}
	command := &Step{Name: "c", Start: "echo start $BLKD_ATTACHMENT >>" + said, Stop: "exit 3"}
	for _, x := range []struct {
		step   *Step
		action Action
		fails  string
	}{
		{unit, Start, ""}, {unit, Status, ""}, {unit, Stop, "stop db: exit status 1"},
		{agent, Start, ""}, {agent, Status, ""}, {agent, Stop, ""},
		{command, Start, ""}, {command, Status, ""}, {command, Stop, "stop c: exit status 3"},
		{&Step{Name: "x", OCF: "heartbeat:None"}, Start, "no such file"},
	} {
		err := p.Run(t.Context(), x.step, x.action, env)
		if (err != nil) != (x.fails != "") || err != nil && !strings.Contains(err.Error(), x.fails) {
			t.Errorf("%s %s: %v, want %q", x.action, x.step.Name, err, x.fails)
		}
	}
	const want = `systemctl start pg.service 7
systemctl is-active --quiet pg.service 7
systemctl stop pg.service 7
start start x 60000 Dummy 7
monitor monitor x 60000 10000 Dummy 7
stop stop x 60000 Dummy 7
start 7
`
	if got, err := os.ReadFile(said); err != nil || string(got) != want {
		t.Errorf("said %q, want %q, %v", got, want, err)
	}
}

// TestProgramsAreBrokenOff: an action ends with its context, and so does everything that
// it has started.
func TestProgramsAreBrokenOff(t *testing.T) {
	dir := t.TempDir()
	child := filepath.Join(dir, "child")
	s := &Step{Name: "slow", Start: "sleep 1000 & echo $! >" + child + "; wait", Stop: "true"}
	why := errors.New("it is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() { done <- (&Programs{}).Run(ctx, s, Start, nil) }()
	var pid int
	for pid == 0 {
		pid = readPid(child)
		time.Sleep(time.Millisecond)
	}
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Error(err)
	}
	for syscall.Kill(pid, 0) == nil && !zombie(pid) {
		time.Sleep(time.Millisecond)
	}
}

// readPid is the process id in a file; 0: there is none yet.
func readPid(file string) int {
	text, _ := os.ReadFile(file)
	if !strings.HasSuffix(string(text), "\n") {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// zombie tells whether a process has ended and nobody has asked how.
func zombie(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(text), ") Z ")
}
