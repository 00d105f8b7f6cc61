package node

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

var rewrite = flag.Bool("rewrite", false, "write the tables in docs/manual anew")

// checkTable compares the last table of a page, without its two head lines, with
// what the code says.
func checkTable(t *testing.T, page, rows string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const rule = "|---|---|---|---|\n"
	head, table, ok := strings.Cut(string(text), rule)
	if !ok {
		t.Fatalf("%s has no table of four columns", page)
	}
	if table == rows {
		return
	}
	if *rewrite {
		if err := os.WriteFile(page, []byte(head+rule+rows), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s differs from the code (go test -rewrite accepts it); the code says:\n%s", page, rows)
}

func TestSettingsPage(t *testing.T) {
	var b strings.Builder
	cfg := DefaultConfig()
	cfg.NodeName, cfg.DataDir = "", "" // not the same everywhere
	fs, _ := flagSet(&cfg)
	for _, o := range options {
		f := fs.Lookup(o.flag())
		usage := strings.ReplaceAll(o.usage, "`", "")
		if def := strings.Trim(f.DefValue, "[]"); def != "" && def != "false" {
			usage += " (default " + def + ")"
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | `%s` | %s |\n", o.key, o.flag(), o.env(), usage)
	}
	checkTable(t, "../../docs/manual/settings.md", b.String())
}

var descText = regexp.MustCompile(`fqName: "(.*?)", help: "(.*?)", (?:unit: ".*?", )?constLabels: \{\}, variableLabels: \{(.*?)\}`)

func TestMetricsPage(t *testing.T) {
	kinds := map[string]string{}
	for _, m := range storeMetrics {
		kinds[m.desc.String()] = "gauge"
		if m.kind == prometheus.CounterValue {
			kinds[m.desc.String()] = "counter"
		}
	}
	descs := make(chan *prometheus.Desc, 100)
	(&collector{}).Describe(descs)
	close(descs)
	var b strings.Builder
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		kind := kinds[d.String()]
		switch {
		case kind != "":
		case strings.HasSuffix(m[1], "_total"):
			kind = "counter"
		case strings.HasSuffix(m[1], "_duration_seconds"):
			kind = "histogram"
		default:
			kind = "gauge"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m[1], kind, strings.ReplaceAll(m[3], ",", ", "), m[2])
	}
	checkTable(t, "../../docs/manual/metrics.md", b.String())
}

func TestProblemsAreDescribed(t *testing.T) {
	for _, page := range []string{"../../docs/json.md", "../../docs/manual/operate.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range []string{openFailed, storeFailed, diskFull, badBlock, sizeDiffers, diskLow, diskUnknown,
			noQuorum, voterMissing, noSpareVoter, notAMember, metadataFailed, nodeNew, nodeDown, nodeSlow, nodePartitioned, nodeHeldBack, nodeDraining, drainWaits,
			memberDown, memberBehind, membersMissing, tooFewCopies, noPrimary, branchFailed, recovering, serviceWaits, pourWaits} {
			if !described(string(text), code) {
				t.Errorf("%s does not describe %s", page, code)
			}
		}
	}
}

// described tells whether a row of a table begins with the code.
func described(page, code string) bool {
	for line := range strings.Lines(page) {
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		if strings.HasPrefix(line, "|") && strings.Contains(first, "`"+code+"`") {
			return true
		}
	}
	return false
}

func TestCumulate(t *testing.T) {
	latency := make([]uint64, 32)
	latency[3], latency[10], latency[11], latency[31] = 1, 2, 3, 4
	count, sum, buckets := cumulate(latency)
	metric, err := prometheus.NewConstHistogram(durationDesc, count, sum, buckets, "demo", "read")
	if err != nil {
		t.Fatal(err)
	}
	var out dto.Metric
	if err := metric.Write(&out); err != nil {
		t.Fatal(err)
	}
	h := out.Histogram
	if h.GetSampleCount() != 10 || len(h.Bucket) != 11 {
		t.Fatalf("%d samples in %d buckets", h.GetSampleCount(), len(h.Bucket))
	}
	for i, want := range []uint64{3, 6, 6} {
		if got := h.Bucket[i].GetCumulativeCount(); got != want {
			t.Errorf("bucket %d (below %g s): %d, want %d", i, h.Bucket[i].GetUpperBound(), got, want)
		}
	}
	if got := h.Bucket[0].GetUpperBound(); got != 1024e-9 {
		t.Errorf("first bound %g", got)
	}
}
