package main

import (
	"strings"
	"testing"
)

// The check is worth something only if it sees a lost, a torn and a misplaced write.
func TestModelSeesWhatIsWrong(t *testing.T) {
	const sector = 9
	put := func(m *model, v version, s int64) []byte {
		p := make([]byte, sectorSize)
		m.content(p, s, v)
		return p
	}
	fresh := func() (*model, version, version, version) {
		m := newModel(1<<20, 1)
		old, acked, inFlight := m.next(false), m.next(false), m.next(false)
		m.done(sector, 1, old)
		m.done(sector, 1, acked)
		m.begin(sector, 1, inFlight)
		return m, old, acked, inFlight
	}
	m, _, acked, _ := fresh()
	if moved, err := m.settle(sector, put(m, acked, sector)); err != nil || !moved {
		t.Errorf("the acknowledged write: %v, %v", moved, err)
	}
	m, _, _, inFlight := fresh()
	if _, err := m.settle(sector, put(m, inFlight, sector)); err != nil || m.acked[sector] != inFlight {
		t.Errorf("the write in flight: %v", err)
	}
	m, old, acked, inFlight := fresh()
	torn := append(put(m, acked, sector)[:256:256], put(m, inFlight, sector)[256:]...)
	for name, c := range map[string]struct {
		got  []byte
		says string
	}{
		"an older write":   {put(m, old, sector), "version 1; acknowledged is version 2, in flight was version 3"},
		"another sector's": {put(m, acked, 8), "of sector 8"},
		"a torn sector":    {torn, "damaged"},
		"zeros":            {make([]byte, sectorSize), "zeros"},
		"garbage":          {[]byte(strings.Repeat("x", sectorSize)), "nobody wrote"},
	} {
		if _, err := m.settle(sector, c.got); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.says)
		}
	}
	z := m.next(true)
	m.done(sector, 1, z)
	if _, err := m.settle(sector, make([]byte, sectorSize)); err != nil {
		t.Errorf("zeros after a trim: %v", err)
	}
	if _, err := m.settle(sector, put(m, inFlight, sector)); err == nil {
		t.Error("data after an acknowledged trim was accepted")
	}
}
