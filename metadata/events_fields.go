package metadata

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"blkd/metadata/metapb"
)

// field is one value of a record in the words of the JSON contract
// (docs/json.md). Elements of lists and maps are named by their key, as in
// members[n2].state.
type field struct{ name, value string }

// diff returns the fields that differ, in the order in which they are listed;
// those that are gone come last. A field that is not listed counts as empty, and
// an empty one, a zero or false as not listed.
func diff(before, after []field) []*metapb.Change {
	var changes []*metapb.Change
	add := func(name, from, to string) {
		if from != to {
			changes = append(changes, &metapb.Change{Field: name, Old: from, New: to})
		}
	}
	for _, f := range after {
		add(f.name, valueOf(before, f.name), f.value)
	}
	for _, f := range before {
		if !slices.ContainsFunc(after, func(g field) bool { return g.name == f.name }) {
			add(f.name, f.value, "")
		}
	}
	return changes
}

func valueOf(fields []field, name string) string {
	for _, f := range fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// fields collects the values of a record that are not empty.
type fields []field

func (l *fields) text(name, value string) {
	if value != "" {
		*l = append(*l, field{name, value})
	}
}

func (l *fields) number(name string, n int64) {
	if n != 0 {
		l.text(name, strconv.FormatInt(n, 10))
	}
}

func (l *fields) counter(name string, n uint64) {
	if n != 0 {
		l.text(name, strconv.FormatUint(n, 10))
	}
}

// id is for random numbers: JSON readers round integers of 64 bits.
func (l *fields) id(name string, id uint64) {
	if id != 0 {
		l.text(name, hexID(id))
	}
}

func (l *fields) flag(name string, on bool) {
	if on {
		l.text(name, "true")
	}
}

// hexID is how random numbers are written for people and in JSON.
func hexID(id uint64) string { return fmt.Sprintf("%016x", id) }

// nodeFields lists what events tell of a node. Free space is left out: it always
// changes.
func nodeFields(n *metapb.Node) []field {
	if n == nil {
		return nil
	}
	var l fields
	l.counter("id", n.Id)
	l.text("address", n.Address)
	l.text("nbd", strings.Join(n.Nbd, " "))
	for _, key := range slices.Sorted(maps.Keys(n.Labels)) {
		l.text("labels["+key+"]", n.Labels[key])
	}
	l.flag("witness", n.Witness)
	l.flag("drained", n.Drained)
	l.flag("keep_replicas", n.KeepReplicas)
	l.id("disk", n.Disk)
	l.id("incarnation", n.Incarnation)
	l.text("boot", n.Boot)
	l.number("capacity_bytes", n.CapacityBytes)
	l.counter("version_min", uint64(n.VersionMin))
	l.counter("version_max", uint64(n.VersionMax))
	l.text("build", n.Build)
	l.text("health", metapb.HealthWord(n.Health))
	l.text("health_text", n.HealthText)
	l.number("health_since", n.HealthSince)
	l.number("held_until", n.HeldUntil)
	l.number("registered", n.Registered)
	l.text("fenced", n.Fenced)
	return l
}

// volumeFields lists what events tell of a volume. The mark is left out: it
// always changes.
func volumeFields(v *metapb.Volume) []field {
	if v == nil {
		return nil
	}
	l := make(fields, 0, 16+4*len(v.Members))
	l.counter("id", v.Id)
	l.number("size_bytes", v.SizeBytes)
	l.number("block_bytes", int64(v.BlockBytes))
	l.text("layout", metapb.LayoutWord(v.Layout))
	l.text("ack", metapb.AckWord(v.Ack))
	l.number("min_copies", int64(v.MinCopies))
	l.text("durability", metapb.DurabilityWord(v.Durability))
	l.flag("shared", v.Shared)
	l.flag("manual_failover", v.ManualFailover)
	l.id("lineage", v.Lineage)
	l.counter("generation", v.Generation)
	l.counter("number", v.Number)
	l.text("primary", v.Primary)
	l.id("primary_incarnation", v.PrimaryIncarnation)
	for _, m := range v.Members {
		at := "members[" + m.Node + "]."
		l.text(at+"state", metapb.StateWord(m.State))
		l.id(at+"incarnation", m.Incarnation)
		l.flag(at+"amnesiac", m.Amnesiac)
		l.flag(at+"leaving", m.Leaving)
		if v.Layout.GetKind() == metapb.LayoutKind_LAYOUT_KIND_EC {
			l.text(at+"shard", strconv.Itoa(int(m.Shard)))
			l.flag(at+"log", m.Log)
		}
	}
	l.text("attachment.holder", v.Attachment.GetHolder())
	l.counter("attachment.number", v.Attachment.GetNumber())
	l.counter("attachment.since", v.Attachment.GetSince())
	l.id("attachment.machine", v.Attachment.GetMachine())
	l.id("attachment.boot", v.Attachment.GetBoot())
	if v.Service != nil {
		l.text("service.nodes", strings.Join(v.Service.Nodes, " "))
		l.text("service.wanted", v.Service.Wanted)
	}
	l.number("created", v.Created)
	if v.Served != 0 {
		l.counter("served", v.Served)
	}
	return l
}

// clusterFields lists what events tell of the cluster.
func (s *State) clusterFields() []field {
	var l fields
	l.id("cluster", s.cluster)
	l.text("name", s.name)
	l.counter("version", uint64(s.version))
	l.number("created", s.created)
	return l
}

// votersFields lists the voters and learners by name.
func (s *State) votersFields() []field {
	names := func(ids []uint64) string {
		list := make([]string, len(ids))
		for i, id := range ids {
			if n := s.NodeByID(id); n != nil {
				list[i] = n.Name
			} else {
				list[i] = fmt.Sprintf("id %d", id)
			}
		}
		return strings.Join(list, " ")
	}
	var l fields
	l.text("voters", names(s.voters))
	l.text("learners", names(s.learners))
	return l
}
