package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// clusterName is what a new cluster is called.
const clusterName = "blkd"

// answer is what a peer said when it was last greeted.
type answer struct {
	asked    bool          // at least once in this run
	greeting *api.Greeting // nil: the last attempt failed
	refusal  *api.Refusal  // with a greeting: what the peer has against this node
	why      string        // without a greeting: why
}

// course is what a blank node should do next: exactly one of its fields is set.
type course struct {
	found *metapb.FoundCluster // become a founder
	join  *invitation          // become a member of what others founded
	wait  *obstacle
}

// invitation is how a blank node gets into a cluster that exists.
type invitation struct {
	cluster uint64
	id      uint64
	claim   bool   // the name has no disk yet: it has to be claimed first
	via     string // a member to ask

	registered uint64 // the log entry that registered this run; 0: none has yet
}

// obstacle is what keeps a node from going on.
type obstacle struct {
	text   string // "waits for n2: connection refused"
	advice string // empty: it helps itself
}

func waitFor(advice, format string, args ...any) course {
	return course{wait: &obstacle{fmt.Sprintf(format, args...), advice}}
}

// plot finds the course of a blank node from what the others said; tried are its
// runs, of which none knows that it has registered. It is a pure function; all nodes of a list come to the same founding command, because it
// depends on nothing but the list and the disk numbers.
func plot(own *api.Greeting, tried []uint64, list []Peer, answers map[string]answer) course {
	members := map[string]*api.Greeting{}
	for name, a := range answers {
		if a.greeting != nil && a.greeting.Cluster != 0 {
			members[name] = a.greeting
		}
	}
	if len(members) > 0 {
		next := plotEntry(own, tried, list, members)
		if next.join != nil && len(own.Backup) > 0 {
			return waitFor("to found a new cluster, restore the same file on all nodes of the list, with empty data directories; to join that one, remove "+api.StagedBackup+" here",
				"node %s belongs to cluster %016x already, and this node %s", next.join.via, next.join.cluster, backupWords(own.Backup))
		}
		return next
	}
	if !slices.ContainsFunc(list, func(p Peer) bool { return p.Name == own.Name }) {
		return waitFor("", "waits for a node of %s that belongs to a cluster%s", formatList(list), silent(list, answers))
	}
	disks := map[string]uint64{own.Name: own.Disk}
	var missing []string
	for _, p := range list {
		if p.Name == own.Name {
			continue
		}
		a := answers[p.Name]
		switch g := a.greeting; {
		case a.refusal != nil && a.refusal.Code != api.RefusalCode_REFUSAL_CODE_LIST:
			return waitFor(a.refusal.Advice, "node %s refuses this node: %s", p.Name, a.refusal.Text)
		case g == nil:
			missing = append(missing, describe(p.Name, a))
		case g.List != own.List:
			return waitFor("start all nodes with the same --cluster", "the founding lists differ: this node has %s, node %s has %s", own.List, p.Name, g.List)
		case !bytes.Equal(g.Backup, own.Backup):
			return waitFor("stop the nodes, and restore the same file on all of them: blkctl cluster snapshot restore FILE",
				"the nodes do not begin with the same: this node %s, node %s %s", backupWords(own.Backup), p.Name, backupWords(g.Backup))
		default:
			disks[p.Name] = g.Disk
		}
	}
	if len(missing) > 0 {
		return waitFor("", "founding needs all nodes of the list once; waits for %s", strings.Join(missing, ", "))
	}
	return course{found: founding(list, disks, own.Backup)}
}

// plotEntry is plot where others belong to a cluster already.
func plotEntry(own *api.Greeting, tried []uint64, list []Peer, members map[string]*api.Greeting) course {
	var best *api.Greeting // the member that knows most
	for _, name := range sortedKeys(members) {
		g := members[name]
		switch {
		case best == nil:
			best = g
		case g.Cluster != best.Cluster:
			return waitFor("decide which of them to keep, and empty the data directories of the nodes of the other",
				"node %s belongs to cluster %016x, node %s to %016x", best.Name, best.Cluster, g.Name, g.Cluster)
		case g.Applied > best.Applied:
			best = g
		}
	}
	i := slices.IndexFunc(best.Runs, func(r *api.Run) bool { return r.Name == own.Name })
	if i < 0 {
		return waitFor(fmt.Sprintf("blkctl node add %s --address %s", own.Name, own.Address), "the cluster of node %s does not know node %s", best.Name, own.Name)
	}
	switch run := best.Runs[i]; {
	case run.Disk == 0:
		return course{join: &invitation{cluster: best.Cluster, id: run.Id, claim: true, via: best.Name}}
	case run.Disk != own.Disk:
		return waitFor(fmt.Sprintf("blkctl node replace %s; this node then joins by itself", own.Name),
			"the data directory is empty, but the cluster of node %s knows node %s with another one (disk %016x, here %016x)", best.Name, own.Name, run.Disk, own.Disk)
	case run.Incarnation != 0 && !slices.Contains(tried, run.Incarnation):
		return waitFor(fmt.Sprintf("blkctl node replace %s; this node then joins by itself", own.Name),
			"the data directory is an old copy: the cluster of node %s knows a later run of node %s", best.Name, own.Name)
	default:
		return plotRejoin(own, list, best, run)
	}
}

// plotRejoin is the course of a founder that stopped before it had founded, or of
// a node that stopped while it joined: the others know its disk. Where the
// founding can be repeated exactly, it is, for then this node can stand in for
// one that was lost right after.
func plotRejoin(own *api.Greeting, list []Peer, best *api.Greeting, run *api.Run) course {
	disks := map[string]uint64{}
	for _, r := range best.Runs {
		disks[r.Name] = r.Disk
	}
	if own.List == best.List {
		if f := founding(list, disks, own.Backup); f.Cluster == best.Cluster {
			return course{found: f}
		}
	}
	return course{join: &invitation{cluster: best.Cluster, id: run.Id, via: best.Name}}
}

// founding is the first command of a cluster. One that begins with a backup has
// another id than one that does not, or not with the same.
func founding(list []Peer, disks map[string]uint64, backup []byte) *metapb.FoundCluster {
	f := &metapb.FoundCluster{Name: clusterName}
	hash := sha256.New()
	for i, p := range list {
		f.Founders = append(f.Founders, &metapb.Founder{
			Name: p.Name, Id: uint64(i + 1), Address: p.Address, Disk: disks[p.Name], Voter: i < voters(len(list)),
		})
		fmt.Fprintf(hash, "%s=%s %016x\n", p.Name, p.Address, disks[p.Name])
	}
	if len(backup) > 0 {
		fmt.Fprintf(hash, "backup %x\n", backup)
	}
	f.Cluster = binary.BigEndian.Uint64(hash.Sum(nil)) | 1 // 0 stands for none
	return f
}

// silent names the nodes of a list that do not answer: " (n1: connection refused)".
func silent(list []Peer, answers map[string]answer) string {
	var words []string
	for _, p := range list {
		if a := answers[p.Name]; a.greeting == nil {
			words = append(words, describe(p.Name, a))
		}
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, ", ") + ")"
}

func describe(name string, a answer) string {
	switch {
	case a.refusal != nil:
		return name + ": " + (&refusedByPeer{a.refusal}).Error()
	case a.why != "":
		return name + ": " + a.why
	}
	return name
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
