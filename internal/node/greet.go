package node

import (
	"cmp"
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
	if n.member != nil {
		n.greetMember(w)
		return
	}
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

// greetMember says who this node is, while it looks for the others.
func (n *Node) greetMember(w io.Writer) {
	if n.cfg.Log.Format == "json" {
		return // what it does is in the log
	}
	what := "node " + n.cfg.NodeName
	if n.cfg.Cluster.Witness {
		what = "witness " + n.cfg.NodeName
	}
	fmt.Fprintf(w, "blkd %s: %s of a cluster, at %s, data in %s\n", version.Get().Version, what, n.cfg.clusterAddress(n.cfg.list()), n.cfg.DataDir)
	fmt.Fprintf(w, "it looks for the others; what it waits for: %s why   stop: Ctrl-C\n", n.blkctl())
}

// welcome says that the node has become a member, and what to do with it.
func (n *Node) welcome(w io.Writer) {
	st := n.member.cluster.Status()
	if n.cfg.Log.Format == "json" {
		return
	}
	fmt.Fprintf(w, "%s is a member of cluster %016x: %d of %d voters, leader %s\n", st.Name, st.Cluster, st.Have, len(st.Voters), cmp.Or(st.Leader, "unknown"))
	fmt.Fprintf(w, "try: %s status\n", n.blkctl())
}

// blkctl is the command that reaches this node.
func (n *Node) blkctl() string {
	switch {
	case n.cfg.Socket != "":
		return "blkctl --socket " + n.cfg.Socket
	case n.cfg.DataDir != api.DefaultDataDir():
		return "blkctl --data-dir " + n.cfg.DataDir
	default:
		return "blkctl"
	}
}
