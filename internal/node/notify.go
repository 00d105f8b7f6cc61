package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd a state; without systemd it does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not notified", "state", state, "err", err)
	}
}

// watchdog tells systemd that the node is alive, twice per watchdog period, as
// long as alive returns. It ends with ctx, or at once without a watchdog.
func watchdog(ctx context.Context, log *slog.Logger, alive func()) {
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("watchdog is off", "err", err)
	}
	if err != nil || period == 0 {
		return
	}
	tick := time.NewTicker(period / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			alive()
			notify(log, daemon.SdNotifyWatchdog)
		}
	}
}
