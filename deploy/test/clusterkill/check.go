package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
)

// check compares what every node knows with what the clients were told. The
// histories of deleted volumes were looked at when they were deleted; if one had
// been created again since, it would be listed.
func check(ctx context.Context, cluster *clustertest.Cluster, changes []change) error {
	exists := map[string]bool{}
	for _, c := range changes {
		exists[c.volume] = !c.deleted
	}
	for _, n := range cluster.Nodes {
		if err := checkList(ctx, n, exists); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	var wrong []error
	for name, there := range exists {
		if there {
			wrong = append(wrong, checkHistory(ctx, cluster.Nodes[0].Conn(), name, false))
		}
	}
	return errors.Join(wrong...)
}

// checkList compares the volumes that a node lists.
func checkList(ctx context.Context, n *clustertest.Node, exists map[string]bool) error {
	list, err := api.NewVolumeServiceClient(n.Conn()).List(ctx, &api.ListVolumesRequest{})
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	var wrong []error
	for _, v := range list.Volumes {
		listed[v.Name] = true
		if there, known := exists[v.Name]; known && !there {
			wrong = append(wrong, fmt.Errorf("volume %s was deleted and is there", v.Name))
		}
	}
	for name, there := range exists {
		if there && !listed[name] {
			wrong = append(wrong, fmt.Errorf("volume %s was created and is lost", name))
		}
	}
	return errors.Join(wrong...)
}

// checkHistory counts how often the changes of a volume were applied.
func checkHistory(ctx context.Context, conn *grpc.ClientConn, name string, gone bool) error {
	h, err := api.NewClusterServiceClient(conn).History(ctx, &api.HistoryRequest{Volume: name})
	if err != nil {
		return fmt.Errorf("the history of volume %s: %w", name, err)
	}
	created, deleted := 0, 0
	for _, e := range h.Entries {
		switch {
		case strings.HasPrefix(e.What, "created"):
			created++
		case strings.HasPrefix(e.What, "deleted"):
			deleted++
		}
	}
	if created != 1 || deleted > 1 || deleted == 1 != gone {
		return fmt.Errorf("volume %s was created %d times and deleted %d times", name, created, deleted)
	}
	return nil
}
