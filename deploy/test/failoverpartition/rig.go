package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"blkd/blockdev"
	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/internal/history"
	"blkd/internal/history/reference"
	"blkd/internal/verifier"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

const (
	connections = 2 // of each client
	depth       = 6 // requests of each client in flight
	size        = 64 << 20
	patience    = time.Minute // with clients that are not served
)

// rig is five nodes in a network of their own, a volume with copies on the first
// three, and a client of each.
type rig struct {
	*clustertest.Cluster
	o       *options
	network *clustertest.Network
	volume  *clustertest.Volume
	crowd   *verifier.Crowd
	follow  context.CancelFunc
	waits   waits
}

// waits is how long clients have waited for the acknowledgement of a write, at the
// longest.
type waits struct {
	mu      sync.Mutex
	last    map[int]time.Time
	longest map[int]time.Duration
}

// reset begins anew.
func (w *waits) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.longest = map[int]time.Duration{}
}

func (w *waits) acknowledged(client int, _ time.Time) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, ok := w.last[client]; ok {
		w.longest[client] = max(w.longest[client], now.Sub(last))
	}
	w.last[client] = now
}

// most is the longest wait of some clients since reset.
func (w *waits) most(clients []int) (most time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range clients {
		most = max(most, w.longest[i], time.Since(w.last[i]))
	}
	return most
}

func newRig(ctx context.Context, o *options) (r *rig, err error) {
	r = &rig{o: o, waits: waits{last: map[int]time.Time{}, longest: map[int]time.Duration{}}}
	names := []string{"n1", "n2", "n3", "n4", "n5"}
	if r.network, err = clustertest.NewNetwork(fmt.Sprintf("bp%d", os.Getpid()), len(names)); err != nil {
		return nil, err
	}
	r.Cluster, err = clustertest.New(clustertest.Config{Blkd: o.blkd, Dir: o.dir, Names: names, Network: r.network, Env: o.planted()})
	if err != nil {
		r.network.Close()
		return nil, err
	}
	if err := r.begin(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) begin(ctx context.Context) (err error) {
	if err := r.Start(ctx); err != nil {
		return err
	}
	if err := r.voters(ctx); err != nil {
		return err
	}
	if r.volume, err = r.CreateVolume(ctx, "v", size, r.Nodes[3], r.Nodes[:3]); err != nil {
		return err
	}
	cfg := verifier.CrowdConfig{Blocks: r.o.blocks, Depth: depth, ReadPercent: 10, Pause: 2 * time.Millisecond, Shared: r.o.shared, Acknowledged: r.waits.acknowledged}
	for _, n := range r.Nodes {
		cfg.Dial = append(cfg.Dial, func(ctx context.Context) (verifier.Connection, error) {
			return r.volume.Dial(ctx, n, nbd.DialOptions{Connections: connections})
		})
	}
	r.crowd = verifier.StartCrowd(cfg)
	ctx, r.follow = context.WithCancel(ctx)
	go r.crowd.Follow(ctx, r.history)
	return nil
}

// voters waits until every node votes.
func (r *rig) voters(ctx context.Context) error {
	return r.Until(ctx, func(ctx context.Context) error {
		st, err := api.NewClusterServiceClient(r.Nodes[0].Conn()).Status(ctx, &api.ClusterStatusRequest{})
		if err == nil && int(st.Quorum.GetVoters()) < len(r.Nodes) {
			err = fmt.Errorf("%d of %d nodes vote", st.Quorum.GetVoters(), len(r.Nodes))
		}
		return err
	})
}

// history asks all nodes for the volume's, of which some are cut off.
func (r *rig) history(ctx context.Context) (*metapb.History, error) {
	var errs error
	for _, n := range r.Nodes {
		within, cancel := context.WithTimeout(ctx, time.Second)
		h, err := api.NewClusterServiceClient(n.Conn()).History(within, &api.HistoryRequest{Volume: r.volume.Name})
		cancel()
		if err == nil {
			return h, nil
		}
		errs = errors.Join(errs, err)
	}
	return nil, errs
}

// served waits until a client of each of some nodes has got a write acknowledged that
// it sent after a moment, and tells how long that took, and which was the last.
func (r *rig) served(ctx context.Context, nodes []int, after time.Time) (took time.Duration, last string, err error) {
	for waiting := slices.Clone(nodes); len(waiting) > 0; {
		waiting = slices.DeleteFunc(waiting, func(i int) bool {
			served := r.crowd.LastSent(i).After(after)
			if served {
				last = r.Nodes[i].Name
			}
			return served
		})
		took = time.Since(after)
		if len(waiting) > 0 && took > patience {
			return took, last, fmt.Errorf("clients of %s are not served\n%s", r.names(waiting), r.Nodes[waiting[0]].Log())
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return took, last, err
		}
	}
	return took, last, nil
}

func (r *rig) names(nodes []int) string {
	var list []string
	for _, i := range nodes {
		list = append(list, r.Nodes[i].Name)
	}
	return strings.Join(list, ", ")
}

// porcupineBlocks are checked by porcupine too, in checkTime each at the most.
const (
	porcupineBlocks = 64
	checkTime       = 5 * time.Second
)

// verdict ends the clients, reads everything back through every node, and tells what
// is wrong with what they were told.
func (r *rig) verdict(ctx context.Context) (violation, err error) {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.crowd.Stop(within); err != nil {
		return err, nil
	}
	var devices []blockdev.Device
	for _, n := range r.Nodes {
		dev, err := r.volume.Dial(ctx, n, nbd.DialOptions{})
		if err != nil {
			return nil, err
		}
		defer dev.Close() //nolint:errcheck // it is only read
		devices = append(devices, dev)
	}
	began := time.Now()
	violation = r.crowd.Check(devices...)
	seen := r.crowd.History()
	fmt.Printf("%d operations on %d blocks, read back through %d nodes: checked in %v\n", seen.Len(), r.o.blocks, len(devices), time.Since(began).Round(time.Millisecond))
	for i := range r.Nodes {
		writes, broken := r.crowd.Writes(i)
		fmt.Printf("  client of %s: %d writes acknowledged, disconnected %d times\n", r.Nodes[i].Name, writes, broken)
	}
	if violation != nil {
		return violation, nil
	}
	fmt.Println("strictly linearizable")
	return porcupine(seen, r.o.shared), nil
}

// porcupine checks some blocks again. If all clients write all of them, there may be too
// much to search in each.
func porcupine(seen *history.Recorder, shared bool) error {
	agreed := 0
	some := seen.Blocks()
	some = some[:min(len(some), porcupineBlocks)]
	for _, b := range some {
		ok, err := reference.Check(0, seen.Block(b), checkTime)
		switch {
		case err != nil: // it has too much to search
		case !ok:
			return fmt.Errorf("porcupine finds no order for block %d, and package history does", b)
		default:
			agreed++
		}
	}
	fmt.Printf("  porcupine agrees for %d of %d blocks, and has no verdict for the others\n", agreed, len(some))
	if agreed == 0 && !shared {
		return errors.New("porcupine has confirmed nothing")
	}
	return nil
}

// close ends everything.
func (r *rig) close() {
	if r.follow != nil {
		r.follow()
	}
	r.Cluster.Close()
	r.network.Close()
}

// sleep lets time pass, unless the program is to end.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
