package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/env"
	"blkd/nbd"
)

// TestManyAtOnce has several operators and clients do everything to the same few
// volumes. Each answer must be one of those that such a contest can have, and
// afterwards the node and its files must agree.
func TestManyAtOnce(t *testing.T) {
	cfg := testConfig(t)
	n := start(t, cfg, env.OS{})
	ctx := context.Background()
	allowed := []codes.Code{codes.OK, codes.NotFound, codes.AlreadyExists, codes.Aborted, codes.FailedPrecondition}
	var wait sync.WaitGroup
	for worker := range 6 {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 25 {
				name := fmt.Sprintf("v%d", random.IntN(3))
				var err error
				switch random.IntN(6) {
				case 0, 1:
					_, err = n.createVolume(name, 1<<20)
				case 2:
					_, err = n.deleteVolume(name, random.IntN(2) == 0)
				case 3:
					_, err = n.resizeVolume(name, int64(1+random.IntN(3))<<20, true)
				case 4:
					err = n.verifyVolume(ctx, name, func(*api.VerifyVolumeProgress) error { return nil })
				case 5:
					useBriefly(ctx, n, name)
				}
				if code := api.Explain(err).Code; !slices.Contains(allowed, code) {
					t.Errorf("%s: %v", name, err)
				}
				n.describeAll()
			}
		})
	}
	wait.Wait()
	var known []string
	for _, v := range n.describeAll() {
		known = append(known, v.Name)
		if v.State != api.VolumeState_VOLUME_STATE_OK {
			t.Errorf("%s: %v", v.Name, v)
		}
	}
	stop(t, n)
	onDisk, err := env.OS{}.ReadDir(cfg.DataDir + "/" + volumesDir)
	if err != nil || !slices.Equal(onDisk, known) {
		t.Errorf("on disk %v, known %v, %v", onDisk, known, err)
	}
}

// useBriefly writes to a volume, which may be gone or go at any moment.
func useBriefly(ctx context.Context, n *Node, name string) {
	c, err := nbd.Dial(ctx, uri(n.listeners[0], name, false), nbd.DialOptions{})
	if err != nil {
		return
	}
	defer c.Close()
	for i := range int64(20) {
		if blockdev.WriteAt(c, make([]byte, 4096), i*8192, 0) != nil {
			return
		}
	}
}
