package metadata

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"blkd/metadata/metapb"
)

func TestDetectorConfig(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		config DetectorConfig
		want   string // of the error; empty: none
	}{
		{DetectorConfig{}, ""},
		{DetectorConfig{Heartbeat: 10 * ms, SuspectMin: 50 * ms, SuspectMax: 100 * ms, RefusedWait: 20 * ms, Stall: 30 * ms}, ""},
		{DetectorConfig{Heartbeat: 5 * ms}, "heartbeat is 5ms; it must lie between 10ms and 10s"},
		{DetectorConfig{Heartbeat: time.Second}, "suspect-min is 500ms; it must lie between 3s and 1m0s"},
		{DetectorConfig{SuspectMin: 2 * time.Second}, "suspect-max is 1.5s; it must lie between 2s and 1m0s"},
		{DetectorConfig{SuspectFactor: -1}, "suspect-factor is -1; it must lie between 1 and 10"},
		{DetectorConfig{RefusedWait: time.Second}, "refused-wait is 1s"},
		{DetectorConfig{UpBeats: 101}, "up-beats is 101"},
		{DetectorConfig{Stall: time.Second}, "stall is 1s"},
		{DetectorConfig{SlowRTT: time.Hour}, "slow-rtt is 1h0m0s"},
		{DetectorConfig{SlowDisk: time.Hour}, "slow-disk is 1h0m0s"},
		{DetectorConfig{SlowAfter: time.Hour}, "slow-after is 1h0m0s"},
		{DetectorConfig{FlapFalls: 1}, "flap-falls is 1"},
		{DetectorConfig{FlapWindow: time.Millisecond}, "flap-window is 1ms"},
		{DetectorConfig{HoldMin: time.Hour}, "hold-min is 1h0m0s; it must lie between 10ms and 5m0s"},
		{DetectorConfig{HoldMax: 25 * time.Hour}, "hold-max is 25h0m0s"},
		{DetectorConfig{HoldDecay: ms}, "hold-decay is 1ms"},
	} {
		d, err := NewDetector("n1", 1, c.config, 0)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c.config, err)
		case c.want == "":
			if d.Heartbeat() != d.config.Heartbeat || d.Heartbeat() == 0 {
				t.Errorf("%+v: heartbeat %v", c.config, d.Heartbeat())
			}
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%+v: got %v, want %s", c.config, err, c.want)
		}
	}
}

// TestDetectorIgnoresNonsense feeds what can arrive and means nothing.
func TestDetectorIgnoresNonsense(t *testing.T) {
	d, err := NewDetector("n1", 11, DetectorConfig{}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Hour
	d.SetPeers(now, []Peer{{"n2", 21}, {"n1", 11}})
	if v := d.Verdicts(); len(v) != 2 || v[0].Node != "n1" || v[1].Node != "n2" {
		t.Fatalf("verdicts on %+v", v)
	}
	for seq := uint64(1); seq < 6; seq++ {
		now += 100 * time.Millisecond
		d.Beat(now, Beat{From: "n2", Incarnation: 21, Seq: seq, RTT: -time.Second, DiskLate: -1, Heard: []Heard{{"n1", 11, -time.Hour}, {"n7", 1, 0}}})
		d.Tick(now)
	}
	d.Beat(now, Beat{From: "n9", Incarnation: 1, Seq: 1})
	d.Beat(now, Beat{From: "n1", Incarnation: 11, Seq: 1})
	d.Refused(now, "n9")
	d.Tick(now - time.Minute) // no clock runs backwards; if one does, it stands still
	d.Beat(now-time.Minute, Beat{From: "n2", Incarnation: 21, Seq: 6})
	if v := d.Verdicts()[1]; !v.Working() || v.Health != metapb.Health_HEALTH_UP {
		t.Errorf("n2 is %+v", v)
	}
	if h := d.Heard(); len(h) != 1 || h[0] != (Heard{"n2", 21, 0}) {
		t.Errorf("heard %+v", h)
	}
	d.SetPeers(now, nil)
	if v := d.Verdicts(); len(v) != 1 {
		t.Errorf("verdicts on %+v", v)
	}
}

// TestFlapsReachAndLeaveTheLongestHold goes up to HoldMax and back.
func TestFlapsReachAndLeaveTheLongestHold(t *testing.T) {
	d, err := NewDetector("n1", 1, DetectorConfig{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := d.config
	var f flaps
	var now time.Duration
	var holds []time.Duration
	for range 20 {
		f.fall(now, c)
		now += 5 * time.Second
		f.rise(now, c)
		holds = append(holds, max(0, f.held-now))
		now += 5 * time.Second
	}
	for i, h := range holds {
		want := min(c.HoldMin<<max(0, i-2), c.HoldMax)
		if i < 2 {
			want = 0
		}
		if h != want {
			t.Errorf("fall %d: held for %v, want %v", i+1, h, want)
		}
	}
	now = f.held + 9*c.HoldDecay
	f.fall(now, c)
	f.rise(now, c)
	if f.held > now {
		t.Errorf("after %v of quiet a single fall is held against it", 9*c.HoldDecay)
	}
}

// TestVerdictsAreShort fits the longest text into what a command may say.
func TestVerdictsAreShort(t *testing.T) {
	name := func(i int) string { return fmt.Sprintf("%060d%03d", 0, i) }
	d, err := NewDetector(name(0), 1, DetectorConfig{}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var peers []Peer
	for i := range 40 {
		peers = append(peers, Peer{name(i), 1})
	}
	now := time.Hour
	d.SetPeers(now, peers)
	for seq := uint64(1); seq < 30; seq++ {
		now += 100 * time.Millisecond
		for i := 2; i < 40; i++ {
			d.Beat(now, Beat{From: name(i), Incarnation: 1, Seq: seq, Heard: []Heard{{name(0), 1, 0}}})
		}
		d.Tick(now)
	}
	down := d.Verdicts()[1]
	if down.Health != metapb.Health_HEALTH_DOWN || len(down.Text) > textLimit-200 {
		t.Errorf("%v: %d bytes: %s", down.Health, len(down.Text), down.Text)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 ms", 400 * time.Microsecond: "0.4 ms", 12 * time.Millisecond: "12 ms", 612 * time.Millisecond: "0.6 s",
		14 * time.Second: "14 s", 3 * time.Minute: "3 min", 30 * time.Hour: "30 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
