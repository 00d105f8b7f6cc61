package node

import (
	"fmt"
	"io"
	"strings"

	"blkd/internal/api"
	"blkd/internal/units"
	"blkd/internal/version"
)

// greet tells people what is served and what to do with it. With a JSON log it
// is a record for each volume instead.
func (n *Node) greet(w io.Writer) {
	volumes := n.describeAll()
	if n.cfg.Log.Format == "json" {
		for _, v := range volumes {
			n.log.Info("volume", "volume", v.Name, "size_bytes", v.SizeBytes, "state", v.State.Word(), "uris", v.Uris)
		}
		return
	}
	fmt.Fprintf(w, "blkd %s serves %s, data in %s\n", version.Get().Version, count(len(volumes), "volume"), n.cfg.DataDir)
	for _, v := range volumes {
		words := []string{"", v.Name, units.Size(v.SizeBytes), n.stateNow(v)}
		fmt.Fprintln(w, strings.Join(append(words, v.Uris...), "  "))
		for _, p := range v.Problems {
			fmt.Fprintf(w, "  ! %s: %s\n    %s\n", v.Name, p.Text, p.Advice)
		}
	}
	fmt.Fprintf(w, "try: %s   stop: Ctrl-C\n", next(volumes))
}

// stateNow is a volume's state, or that it has just been created.
func (n *Node) stateNow(v *api.Volume) string {
	if own := n.lookup(v.Name); own != nil && own.created && v.State == api.VolumeState_VOLUME_STATE_OK {
		return "created"
	}
	return v.State.Word()
}

// next is a command to go on with.
func next(volumes []*api.Volume) string {
	for _, v := range volumes {
		if len(v.Uris) > 0 {
			return "nbdinfo " + quoted(v.Uris[0])
		}
	}
	if len(volumes) == 0 {
		return "blkctl volume create demo 1GiB"
	}
	return "blkctl status"
}

// quoted puts a URI in quotes if a shell would read something into it.
func quoted(uri string) string {
	if strings.ContainsAny(uri, "?&*") {
		return "'" + uri + "'"
	}
	return uri
}
