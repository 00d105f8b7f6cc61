package cluster

import (
	"blkd/metadata/metapb"
	"testing"
)

func TestFound(t *testing.T) {
	run(t, func(l *lab) {
		l.start("n1", "n2", "n3")
		l.Logf("three nodes founded a cluster after %v", l.settle("n1", "n2", "n3"))
		id := l.node("n1").Status().Cluster
		for _, n := range l.up() {
			st := n.Status()
			if st.Cluster != id || id == 0 || st.Have != 3 || st.Need != 2 || len(st.Missing) != 0 {
				t.Errorf("%s: %+v", st.Name, st)
			}
			if r := n.record(st.Name); r.GetIncarnation() != st.Incarnation || r.GetHealth() != metapb.Health_HEALTH_UP {
				t.Errorf("%s is recorded as %v", st.Name, r)
			}
		}
	}, "n1", "n2", "n3")
}
