package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"blkd/internal/api"
	"blkd/internal/attach"
	"blkd/nbd/kernel"
)

// attachFlags are what attach was asked for.
type attachFlags struct {
	device      string
	holder      string
	connections int
	relay       bool
	fuse        bool
	tls         bool
	tlsDir      string
	readOnly    bool
	takeover    bool
	foreground  bool
	reason      string
}

func (a *app) attachCommand() *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach VOLUME",
		Short: "Attaches a volume to this host as a block device that outlives its primary",
		Long: `Makes a /dev/nbdN of the kernel's NBD client, connected to the node that is primary of
the volume, and /dev/blkd/by-name/VOLUME. When the primary dies or the volume moves,
what is written and read waits and goes on at the next primary, without an error: file
systems stay mounted. A process in the background sees to that; if it ends the device
only waits longer, and the next attach takes it over.

One client at a time writes to a volume. While another one has attached it, attach
refuses (exit code 6) and names it; --takeover shuts that one out for good, on every
node, whether it answers or not. It needs root and the kernel module nbd.`,
		Example: `  blkctl attach pgdata && mkfs.ext4 /dev/blkd/by-name/pgdata
  blkctl attach pgdata --takeover --reason "db1 hangs"
  blkctl attach pgdata --read-only --device /dev/nbd5`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.attach(cmd.Context(), args[0], &f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.device, "device", "", "`DEVICE` as /dev/nbd5 (default: one that is free)")
	flags.StringVar(&f.holder, "holder", "", "`NAME` under which the volume is held, and the same after a reboot (default: the host's name)")
	flags.IntVar(&f.connections, "connections", 1, "`NUMBER` of connections to the primary; with more than one, requests under way take up to 10 s longer to go on after a failover")
	flags.BoolVar(&f.relay, "relay", false, "pass requests through the process in the background: waits of a failover are shorter, and TLS is possible, but each request takes longer")
	flags.BoolVar(&f.fuse, "fuse", false, "without the kernel's NBD client: a file instead of a device, made by libnbd's nbdfuse, which ends with the process in the background")
	flags.BoolVar(&f.tls, "nbd-tls", false, "connect to NBD with TLS; needs --relay or --fuse")
	flags.StringVar(&f.tlsDir, "nbd-tls-certificates", "", "for --nbd-tls: `DIR` with ca-cert.pem and, to prove who this host is, client-cert.pem and client-key.pem")
	flags.BoolVar(&f.readOnly, "read-only", false, "read only, and take no attachment: another client may write")
	flags.BoolVar(&f.takeover, "takeover", false, "take the volume from the client that holds it, which can never write to it again")
	flags.BoolVar(&f.foreground, "foreground", false, "do not go into the background; for services")
	reasonFlag(cmd, &f.reason)
	return cmd
}

func (a *app) attach(ctx context.Context, volume string, f *attachFlags) error {
	if f.connections < 1 || f.connections > 16 {
		return fmt.Errorf("--connections %d: use 1 to 16", f.connections)
	}
	switch {
	case (f.relay || f.fuse) && f.connections > 1:
		return &Error{Code: Usage, Text: "--connections is for the kernel's connections to the primary: with --relay or --fuse it has none"}
	case f.fuse && f.device != "":
		return &Error{Code: Usage, Text: "--device names a device of the kernel: with --fuse there is none"}
	case f.tls && !f.relay && !f.fuse:
		return &Error{Code: Usage, Text: "the kernel's NBD client speaks no TLS", Advice: "add --relay"}
	case f.tlsDir != "" && !f.tls:
		return &Error{Code: Usage, Text: "--nbd-tls-certificates goes with --nbd-tls"}
	}
	index := -1
	if f.device != "" {
		var err error
		if index, err = kernel.Index(f.device); err != nil {
			return fmt.Errorf("--device: %w", err)
		}
	}
	holder, err := holderName(f.holder)
	if err != nil {
		return err
	}
	if f.foreground {
		return a.attachHere(ctx, volume, holder, index, f)
	}
	return a.attachBehind(ctx, volume)
}

// attachHere keeps the volume attached until it is told to stop.
func (a *app) attachHere(ctx context.Context, volume, holder string, index int, f *attachFlags) error {
	if f.relay {
		if err := flushes(); err != nil {
			return attachError(volume, err)
		}
	}
	log := slog.New(slog.NewTextHandler(a.Err, nil))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	front := reporter(cancel)
	var last attach.State
	run := attach.Run
	if f.fuse {
		run = attach.RunFuse
	}
	err := run(ctx, attach.Config{
		Volume: volume, Holder: holder, Index: index, Connections: f.connections, ReadOnly: f.readOnly, Takeover: f.takeover,
		Relay: f.relay, TLS: f.tls, Certificates: f.tlsDir, Dir: attach.DefaultDir, Log: log, Cluster: &attachCluster{app: a, volume: volume, holder: holder, reason: f.reason},
		Ready: func(s *attach.State) {
			last = *s
			front.done(s, nil)
			if err := notifyReady(); err != nil {
				log.Warn("systemd was not told that the device is there", "err", err)
			}
		},
		Waits: front.waits,
	})
	if last.Device != "" && ctx.Err() != nil {
		return nil // told to stop; the device stays
	}
	err = attachError(volume, err)
	front.done(nil, err)
	return err
}

// attachError says what to do about an error of package attach.
func attachError(volume string, err error) error {
	switch {
	case errors.Is(err, kernel.ErrNoModule):
		return &Error{Code: Failed, Text: kernel.ErrNoModule.Error(), Advice: "modprobe nbd; where there is no such module: blkctl attach " + volume + " --fuse, or QEMU, or fio"}
	case errors.Is(err, attach.ErrNoFuse):
		return &Error{Code: Failed, Text: err.Error(), Advice: "apt-get install libnbd-bin fuse3"}
	case errors.Is(err, attach.ErrRunning):
		return &Error{Code: Conflict, Text: fmt.Sprintf("volume %s is attached to this host already", volume), Advice: "blkctl attachments"}
	case errors.Is(err, kernel.ErrInUse):
		return &Error{Code: Conflict, Text: err.Error(), Advice: "leave --device away for one that is free; blkctl attachments lists those of blkd"}
	case errors.Is(err, attach.ErrTLSRequired):
		return &Error{Code: Failed, Text: "the nodes serve NBD clients only with TLS, and the kernel's NBD client speaks none",
			Advice: "blkctl attach " + volume + " --relay --nbd-tls --nbd-tls-certificates DIR; for a service: relay and nbd_tls_certificates in its configuration"}
	case errors.Is(err, fs.ErrPermission):
		return &Error{Code: Failed, Text: err.Error(), Advice: "run it as root"}
	}
	return err
}

// flushes makes this process one whose memory the kernel does not get by writing to
// block devices: what it would write to may be the device that waits for this process.
// That is a property of threads, which only a new program begins with in all.
func flushes() error {
	if on, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0); err != nil || on == 1 {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_IO_FLUSHER", err)
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

// holderName is how this host is known as a holder.
func holderName(given string) (string, error) {
	name := given
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", err
		}
	}
	if name == "" || strings.ContainsAny(name, " \t\n") {
		return "", fmt.Errorf("--holder %q: give a name without blanks", name)
	}
	return name, nil
}

// reportVariable tells a process that one in front waits for its reports, on descriptor 3,
// and is there as long as descriptor 4 does not end.
const reportVariable = "BLKCTL_REPORT"

// report is what a process in the background tells the one in front: what it waits for,
// and last that the device is there, or why not.
type report struct {
	Waits  string        `json:"waits,omitempty"`
	State  *attach.State `json:"state,omitempty"`
	Code   Code          `json:"code,omitempty"`
	Text   string        `json:"text,omitempty"`
	Advice string        `json:"advice,omitempty"`
}

// front is the process that waits for reports; nil: none does.
type front struct {
	pipe *os.File
	told atomic.Bool // the last report
}

// reporter finds the process in front. If that is gone before the last report, whoever
// has asked for the device has given up: gone is called.
func reporter(gone func()) *front {
	if os.Getenv(reportVariable) == "" {
		return nil
	}
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	f := &front{pipe: os.NewFile(3, "report")}
	go func() {
		os.NewFile(4, "front").Read(make([]byte, 1)) // nobody writes: it ends
		if !f.told.Load() {
			gone()
		}
	}()
	return f
}

func (f *front) tell(r report) { json.NewEncoder(f.pipe).Encode(r) } // nobody may be there any more

// waits tells what is waited for.
func (f *front) waits(err error) {
	if f != nil && !f.told.Load() {
		f.tell(report{Waits: explain(context.Background(), err).Text})
	}
}

// done makes the last report; later ones go nowhere.
func (f *front) done(s *attach.State, err error) {
	if f == nil || f.told.Swap(true) {
		return
	}
	r := report{State: s}
	if err != nil {
		e := explain(context.Background(), err)
		r.Code, r.Text, r.Advice = e.Code, e.Text, e.Advice
	}
	f.tell(r)
	f.pipe.Close()
}

// attachBehind runs the same command line in the background and returns when the
// device is there.
func (a *app) attachBehind(ctx context.Context, volume string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(attach.DefaultDir, 0o755); err != nil {
		return attachError(volume, err)
	}
	log, err := os.OpenFile(filepath.Join(attach.DefaultDir, volume+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return attachError(volume, err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	alive, here, err := os.Pipe()
	if err != nil {
		return err
	}
	defer here.Close()
	cmd := exec.Command(self, append(os.Args[1:], "--foreground")...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w, alive}
	cmd.Env = append(os.Environ(), reportVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.Close()
	alive.Close()
	stop := context.AfterFunc(ctx, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		r.Close()
	})
	defer stop()
	answer, err := a.lastReport(r)
	if err != nil {
		if ctx.Err() != nil {
			return &Error{Code: Interrupted, Text: "interrupted: volume " + volume + " was not attached"}
		}
		return &Error{Code: Failed, Text: "the process that should keep the volume attached has ended", Advice: "look at " + log.Name()}
	}
	if answer.State == nil {
		return &Error{Code: answer.Code, Text: answer.Text, Advice: answer.Advice}
	}
	return show(a.Out, a.output, result{data: newAttachedDevice(answer.State), names: []string{answer.State.Device}, table: func(w io.Writer, _ bool) {
		fmt.Fprintf(w, "%s: %s, attachment %d, primary %s\n", volume, answer.State.Device, answer.State.Attachment, answer.State.Primary)
	}})
}

// lastReport passes on what the process in the background waits for, until it is done.
func (a *app) lastReport(r io.Reader) (*report, error) {
	for reports := json.NewDecoder(r); ; {
		var answer report
		if err := reports.Decode(&answer); err != nil {
			return nil, err
		}
		if answer.Waits == "" {
			return &answer, nil
		}
		fmt.Fprintf(a.Err, "blkctl: waiting: %s\n", answer.Waits)
	}
}

func (a *app) detachCommand() *cobra.Command {
	var force bool
	var holder, reason string
	cmd := &cobra.Command{
		Use:   "detach VOLUME",
		Short: "Removes a volume's device from this host and frees the volume for others",
		Long: `Removes the device that attach has made, and gives the attachment back. It refuses
(exit code 6) while the device is mounted or open, unless forced: then what was not
written yet is lost.

With --holder it frees a volume that another host holds, without touching that host: for
a host that is gone. What it may still send is refused.`,
		Example: `  blkctl detach pgdata
  blkctl detach pgdata --holder db1 --reason "db1 was scrapped"`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.detach(cmd.Context(), args[0], holder, reason, force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even while it is mounted or open")
	cmd.Flags().StringVar(&holder, "holder", "", "free it for the `NAME` that holds it, as blkctl attachments tells")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) detach(ctx context.Context, volume, holder, reason string, force bool) error {
	if holder == "" {
		s, err := attach.Detach(attach.DefaultDir, volume, force)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &Error{Code: NotFound, Text: fmt.Sprintf("volume %s is not attached to this host", volume), Advice: "blkctl attachments"}
		case errors.Is(err, attach.ErrInUse):
			return &Error{Code: Refused, Text: err.Error(), Advice: "umount it; or, to lose what was not written: blkctl detach " + volume + " --force"}
		case err != nil:
			return attachError(volume, err)
		case s.ReadOnly:
			fmt.Fprintf(a.Out, "%s: detached\n", volume)
			return nil
		}
		holder = s.Holder
	}
	req := &api.DetachRequest{Request: newRequest(reason), Name: volume, Holder: holder}
	err := a.call(ctx, func(ctx context.Context, n *node) error {
		_, err := n.volumes.Detach(ctx, req)
		return called(err)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "%s: detached\n", volume)
	return nil
}

func (a *app) attachmentsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "attachments",
		Short: "Lists who holds each volume, and the devices of this host",
		Long: `Lists for each volume the client that may write to it, the number of its attachment,
and its device if that is on this host.`,
		Example: `  blkctl attachments
  blkctl attachments -o json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.attachments(cmd.Context()) },
	}
}

func (a *app) attachments(ctx context.Context) error {
	here, err := attach.List(attach.DefaultDir)
	if err != nil {
		return err
	}
	return a.call(ctx, func(ctx context.Context, n *node) error {
		answer, err := n.volumes.List(ctx, &api.ListVolumesRequest{})
		if err != nil {
			return called(err)
		}
		return show(a.Out, a.output, attachmentsResult(newAttachments(answer.Volumes, here)))
	})
}

func attachmentsResult(list []VolumeAttachment) result {
	var names []string
	for _, v := range list {
		names = append(names, v.Volume)
	}
	return result{data: list, names: names, table: func(w io.Writer, _ bool) {
		row(w, "VOLUME", "HOLDER", "NUMBER", "SHARED", "DEVICE HERE")
		for _, v := range list {
			device := "-"
			if v.Device != nil {
				device = v.Device.Device
			}
			row(w, v.Volume, orDash(v.Holder), fmt.Sprint(v.Number), yesNo(v.Shared), device)
		}
	}}
}
