package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

func (a *app) volumeCommand() *cobra.Command {
	return group("volume", "Manages volumes",
		a.volumeListCommand(), a.volumeShowCommand(), a.volumeCreateCommand(),
		a.volumeDeleteCommand(), a.volumeResizeCommand(), a.volumeChangeCommand(), a.volumeRecoverCommand(), a.volumeVerifyCommand())
}

func (a *app) volumeListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists the volumes",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				list, err := n.volumes.List(ctx, &api.ListVolumesRequest{})
				if err != nil {
					return called(err)
				}
				volumes := newVolumes(list.Volumes)
				return show(a.Out, a.output, result{
					data:  VolumeList{Volumes: volumes},
					names: names(volumes),
					table: func(w io.Writer, wide bool) { volumeTable(w, volumes, wide) },
				})
			})
		},
	}
}

func (a *app) volumeShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show VOLUME",
		Short:             "Shows one volume in full",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				v, err := n.volumes.Show(ctx, &api.ShowVolumeRequest{Name: args[0]})
				if err != nil {
					return called(err)
				}
				return a.showVolume(v)
			})
		},
	}
}

func (a *app) volumeResizeCommand() *cobra.Command {
	var shrink bool
	var reason string
	cmd := &cobra.Command{
		Use:   "resize VOLUME SIZE",
		Short: "Changes a volume's size",
		Long: `Changes a volume's size while it is in use. Clients see the new size when they
connect again. A cluster's volume can only be made larger.`,
		Args:              arguments(2, 2),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := units.ParseSize(args[1])
			if err != nil {
				return err
			}
			req := &api.ResizeVolumeRequest{Name: args[0], SizeBytes: size, AllowShrink: shrink, Request: newRequest(reason)}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				v, err := n.volumes.Resize(ctx, req)
				if err != nil {
					return called(err)
				}
				return a.showVolume(v)
			})
		},
	}
	cmd.Flags().BoolVar(&shrink, "allow-shrink", false, "make the volume smaller; what lies beyond the new end is lost")
	reasonFlag(cmd, &reason)
	return cmd
}

// showVolume prints one volume.
func (a *app) showVolume(in *api.Volume) error {
	v := newVolume(in)
	return show(a.Out, a.output, result{data: v, names: []string{v.Name}, table: func(w io.Writer, _ bool) { volumeSheet(w, v) }})
}

func names(volumes []Volume) []string {
	out := make([]string, len(volumes))
	for i, v := range volumes {
		out[i] = v.Name
	}
	return out
}

// volumeTable prints a line for each volume; wide adds where and how it runs.
func volumeTable(w io.Writer, volumes []Volume, wide bool) {
	if len(volumes) > 0 && volumes[0].Record != nil {
		recordTable(w, volumes, wide)
		return
	}
	head := []string{"VOLUME", "SIZE", "ALLOCATED", "LOG", "STATE", "CLIENTS", "URI"}
	if wide {
		head = append(head, "WRITTEN", "AMPLIFICATION", "MEMORY")
	}
	row(w, head...)
	for _, v := range volumes {
		size, allocated := "-", "-" // unknown while the store is not open
		if v.IO != nil {
			size, allocated = units.Size(v.SizeBytes), units.Size(v.AllocatedBytes)
		}
		cells := []string{v.Name, size, allocated, logFill(v.IO), v.State, fmt.Sprint(v.Clients), firstURI(v.URIs)}
		if wide {
			written, amplification, memory := "-", "-", "-"
			if v.IO != nil {
				written, memory = units.Size(v.IO.ClientWrittenBytes), units.Size(v.IO.MemoryBytes)
				amplification = fmt.Sprintf("%.2f", v.IO.WriteAmplification)
			}
			cells = append(cells, written, amplification, memory)
		}
		row(w, cells...)
	}
}

// volumeSheet prints all about one volume.
func volumeSheet(w io.Writer, v Volume) {
	if v.Record != nil {
		recordSheet(w, v)
		return
	}
	row(w, "name", v.Name)
	row(w, "size", fmt.Sprintf("%s (%d bytes)", units.Size(v.SizeBytes), v.SizeBytes))
	row(w, "allocated", units.Size(v.AllocatedBytes))
	row(w, "state", v.State)
	row(w, "clients", fmt.Sprint(v.Clients))
	if v.IO != nil {
		row(w, "log", fmt.Sprintf("%s of %s used", units.Size(v.IO.LogUsedBytes), units.Size(v.IO.LogSizeBytes)))
		row(w, "written", fmt.Sprintf("%s by clients, %s to disk (x %.2f)",
			units.Size(v.IO.ClientWrittenBytes), units.Size(v.IO.DiskWrittenBytes), v.IO.WriteAmplification))
		row(w, "memory", units.Size(v.IO.MemoryBytes))
	}
	row(w, "uri", strings.Join(v.URIs, "  "))
	printProblems(w, "", v.Problems)
}

// printProblems prints what needs attention, and under it what to do, if anything.
func printProblems(w io.Writer, who string, problems []Problem) {
	for _, p := range problems {
		next := "\n  "
		if strings.HasPrefix(p.Advice, "nothing to do") {
			next = "; "
		}
		fmt.Fprintf(w, "! %s%s%s%s\n", who, p.Text, next, p.Advice)
	}
}

func logFill(io *VolumeIO) string {
	if io == nil || io.LogSizeBytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%d %%", 100*io.LogUsedBytes/io.LogSizeBytes)
}

func firstURI(uris []string) string {
	if len(uris) == 0 {
		return "-"
	}
	return uris[0]
}
