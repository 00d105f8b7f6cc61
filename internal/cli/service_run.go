package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/attach"
	"blkd/internal/service"
	"blkd/internal/statefile"
	"blkd/metadata/metapb"
)

// servicesDir has the configurations of this machine's services.
const servicesDir = "/etc/blkd/services"

// runFlags are what service run was asked for.
type runFlags struct {
	config, node, dir string
}

func (a *app) serviceRunCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run VOLUME",
		Short: "Manages a volume's service on this machine, until it is told to stop",
		Long: `Runs a volume's service on this machine whenever it is wanted here: it takes the
volume, starts the steps of its configuration in order, looks after them, and stops them in
reverse when the service shall run elsewhere, a step has failed, or another client has
taken the volume. It is what blkd-service@VOLUME.service runs, as root.

If this process is killed, what it has started goes on; the next one takes it over, or
stops it if the volume was taken meanwhile. Name all nodes with --node, so that it
hears of a takeover also while the node of this machine is down.`,
		Example: `  blkctl service run pgdata
  blkctl service run pgdata --config pgdata.toml --name n1`,
		Args: arguments(1, 1), ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error { return a.serviceRun(cmd.Context(), args[0], &f) },
	}
	cmd.Flags().StringVar(&f.config, "config", "", "configuration `FILE` (default "+servicesDir+"/VOLUME.toml)")
	cmd.Flags().StringVar(&f.node, "name", "", "`NODE` of the cluster that this machine is (default: asked of its blkd)")
	cmd.Flags().StringVar(&f.dir, "state", service.DefaultDir, "`DIR` of what is running, which must not outlive the boot")
	return cmd
}

func (a *app) serviceRun(ctx context.Context, volume string, f *runFlags) error {
	file := f.config
	if file == "" {
		file = filepath.Join(servicesDir, volume+".toml")
	}
	cfg, err := service.Load(file)
	if err != nil {
		return err
	}
	if cfg.Volume != volume {
		return fmt.Errorf("%s is of volume %s, not of %s", file, cfg.Volume, volume)
	}
	if cfg.Relay {
		if err := flushes(); err != nil {
			return attachError(volume, err)
		}
	}
	log := slog.New(slog.NewTextHandler(a.Err, nil))
	name := f.node
	if name == "" {
		if name, err = a.ownNode(ctx, log); err != nil {
			return nil // told to stop, and nothing was started
		}
	}
	if err := notifyReady(); err != nil {
		log.Warn("systemd was not told that the service is managed", "err", err)
	}
	c := &serviceCluster{attachCluster: &attachCluster{app: a, volume: volume, holder: service.Holder(name), reason: "service"},
		node: name, cfg: cfg, log: log}
	err = service.Run(ctx, service.Options{Config: cfg, Node: name, Dir: f.dir, Cluster: c, Runner: &service.Programs{}, Log: log})
	switch {
	case errors.Is(err, service.ErrRunning):
		return &Error{Code: Conflict, Text: err.Error(), Advice: "blkctl service show " + volume}
	case err != nil:
		return &Error{Code: Failed, Text: err.Error(), Advice: "stop it by hand before the volume is used elsewhere; blkctl service run " + volume + " tries again"}
	}
	return nil
}

// ownNode asks this machine's blkd for its name until it answers, or ctx ends.
func (a *app) ownNode(ctx context.Context, log *slog.Logger) (string, error) {
	said := ""
	for {
		name, err := a.askOwnNode(ctx)
		if err == nil {
			return name, nil
		}
		if said != err.Error() {
			said = err.Error()
			log.Warn("waiting for the blkd of this machine", "err", said)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (a *app) askOwnNode(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	n, err := a.connectSocket()
	if err != nil {
		return "", err
	}
	defer n.conn.Close()
	answer, err := n.node.Status(ctx, &api.StatusRequest{Volume: "none"})
	return answer.GetNode(), err
}

// serviceCluster is the cluster as a service's manager needs it.
type serviceCluster struct {
	*attachCluster
	node string
	cfg  *service.Config
	log  *slog.Logger

	stopAgent func() // of the device; nil: none runs
}

// Follow implements service.Cluster.
func (c *serviceCluster) Follow(ctx context.Context, f func(*metapb.Volume, []*metapb.Node)) {
	var polls sync.WaitGroup
	polls.Go(func() {
		c.follow(ctx, func(answer *api.FollowResponse, _ string) { f(answer.Record, answer.Nodes) })
	})
	polls.Wait()
}

// Hold implements service.Cluster.
func (c *serviceCluster) Hold(ctx context.Context, takeover bool, keep uint64) (*service.Held, error) {
	var said string
	for pause := pollPause; ; pause = min(2*pause, askTime) {
		r, err := c.take(ctx, takeover, keep)
		switch {
		case err == nil && *c.cfg.Device:
			return c.attachDevice(ctx, r, keep == r.Attachment.Since)
		case err == nil:
			uri, err := c.uri(ctx, r)
			return &service.Held{Record: r, Env: []string{statefile.URI + "=" + uri}}, err
		case errors.Is(err, attach.ErrRefused):
			return nil, fmt.Errorf("%w: %w", service.ErrHeld, err)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		if said != err.Error() {
			said = err.Error()
			c.log.Warn("the volume cannot be taken yet", "volume", c.volume, "err", said)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// take attaches the volume. Without a device, the clients that an earlier manager has
// started under the attachment keep are left in their session: a new one would end them.
func (c *serviceCluster) take(ctx context.Context, takeover bool, keep uint64) (*metapb.Volume, error) {
	if keep != 0 && !*c.cfg.Device {
		answer, err := c.look(ctx)
		if err != nil {
			return nil, err
		}
		if a := answer.Record.GetAttachment(); a.GetHolder() == c.holder && a.GetSince() == keep {
			return answer.Record, nil
		}
	}
	return c.Attach(ctx, false, takeover)
}

// look asks a node for what it knows of the volume.
func (c *serviceCluster) look(ctx context.Context) (answer *api.FollowResponse, err error) {
	err = c.call(ctx, func(ctx context.Context, n *node) error {
		answer, err = n.volumes.Follow(ctx, &api.FollowRequest{Name: c.volume})
		return called(err)
	})
	return answer, err
}

// attachDevice has an agent make the device and keep it on the volume. It begins sessions
// of its own, of the same holder. Unless an earlier device is to be kept it is removed: what
// is in its cache may be older than the volume.
func (c *serviceCluster) attachDevice(ctx context.Context, r *metapb.Volume, keep bool) (*service.Held, error) {
	c.endAgent()
	if !keep {
		if err := c.removeDevice(true); err != nil {
			return nil, attachError(c.volume, err)
		}
	}
	agent, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ready, ended := make(chan *attach.State, 1), make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		ended <- attach.Run(agent, attach.Config{Volume: c.volume, Holder: c.holder, Index: -1, Connections: 1,
			Relay: c.cfg.Relay, TLS: c.cfg.TLSCertificates != "", Certificates: c.cfg.TLSCertificates,
			Dir: attach.DefaultDir, Cluster: c.attachCluster, Log: c.log, Ready: func(s *attach.State) { ready <- s }, Waits: func(error) {}})
	})
	stop := func() {
		cancel()
		running.Wait()
	}
	select {
	case s := <-ready:
		c.stopAgent = stop
		return &service.Held{Record: r, Env: []string{statefile.Device + "=" + s.Device}, Lost: ended}, nil
	case err := <-ended:
		stop()
		if errors.Is(err, attach.ErrRefused) {
			err = fmt.Errorf("%w: %w", service.ErrHeld, err)
		}
		return nil, attachError(c.volume, err)
	case <-ctx.Done():
		stop()
		return nil, ctx.Err()
	}
}

// uri is where this node serves the volume to its holder.
func (c *serviceCluster) uri(ctx context.Context, r *metapb.Volume) (string, error) {
	answer, err := c.look(ctx)
	if err != nil {
		return "", err
	}
	export := fmt.Sprintf("%s;attachment=%d-%d", c.volume, r.Id, r.Attachment.Number)
	for _, x := range answer.Nodes {
		if x.Name != c.node || len(x.Nbd) == 0 {
			continue
		}
		if path, ok := strings.CutPrefix(x.Nbd[0], "unix:"); ok {
			return "nbd+unix:///" + export + "?socket=" + path, nil
		}
		return "nbd://" + x.Nbd[0] + "/" + export, nil
	}
	return "", fmt.Errorf("node %s serves no NBD clients", c.node)
}

// Release implements service.Cluster.
func (c *serviceCluster) Release(ctx context.Context) error {
	c.endAgent()
	if *c.cfg.Device {
		if err := c.removeDevice(false); err != nil {
			return err
		}
	}
	err := c.call(ctx, func(ctx context.Context, n *node) error {
		_, err := n.volumes.Detach(ctx, &api.DetachRequest{Request: newRequest(c.reason), Name: c.volume, Holder: c.holder})
		return called(err)
	})
	if err != nil && explain(ctx, err).Code == Refused { // somebody else has it
		return nil
	}
	return err
}

// endAgent ends the agent of the device, which stays.
func (c *serviceCluster) endAgent() {
	if c.stopAgent != nil {
		c.stopAgent()
		c.stopAgent = nil
	}
}

// removeDevice removes the device, if there is one; unless forced, only if it is not used.
func (c *serviceCluster) removeDevice(force bool) error {
	if _, err := attach.Detach(attach.DefaultDir, c.volume, force); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// MoveAway implements service.Cluster.
func (c *serviceCluster) MoveAway(ctx context.Context, reason string) error {
	return c.call(ctx, func(ctx context.Context, n *node) error {
		_, err := n.volumes.SetService(ctx, &api.SetServiceRequest{Request: newRequest(reason), Name: c.volume, Away: true, From: c.node})
		return called(err)
	})
}
