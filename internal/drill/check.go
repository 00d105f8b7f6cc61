package drill

import (
	"context"
	"time"

	"blkd/metadata/metapb"
)

// Checked is what a check without a disturbance has found.
type Checked struct {
	Volume       string   `json:"volume"`
	Seconds      float64  `json:"seconds"`
	Clients      []string `json:"clients"` // nodes through which the volume was used
	Operations   int      `json:"operations"`
	Disconnects  int64    `json:"disconnects"`
	Linearizable bool     `json:"linearizable"`
	Violation    string   `json:"violation,omitempty"` // what cannot be, and the operations that show it
}

// Check has clients of all nodes use a volume for a time, and judges what they were
// told.
func (c *Cluster) Check(ctx context.Context, volume string, d time.Duration) (*Checked, error) {
	crowd, err := c.crowd(ctx, volume, nil)
	if err != nil {
		return nil, err
	}
	following, stop := context.WithCancel(ctx)
	defer stop()
	go crowd.Follow(following, func(ctx context.Context) (*metapb.History, error) { return c.history(ctx, volume) })
	began := time.Now()
	waited := pause(ctx, d)
	out := &Checked{Volume: volume, Seconds: time.Since(began).Seconds()}
	violation, err := c.verdict(context.WithoutCancel(ctx), volume, crowd)
	if err != nil {
		return nil, err
	}
	if waited != nil {
		return nil, waited
	}
	for i, n := range c.clients() {
		_, broken := crowd.Writes(i)
		out.Disconnects += broken
		out.Clients = append(out.Clients, n.Name)
	}
	out.Operations, out.Linearizable = crowd.History().Len(), violation == nil
	if violation != nil {
		out.Violation = violation.Error()
	}
	return out, nil
}

// pause lets time pass, unless the program is to end.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
