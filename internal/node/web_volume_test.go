package node

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/env"
)

// page asks a node as a load balancer does, which has no patience.
func page(t *testing.T, n *Node, method, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(brief(t), method, "http://"+n.web.address.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Timeout: 10 * pageTime}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if allow := answer.Header.Get("Allow"); (method == "OPTIONS") != (allow == "GET, HEAD, OPTIONS") && answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("%s %s: Allow: %q", method, path, allow)
	}
	return answer.StatusCode, string(text)
}

// untilPage waits for a page's answer.
func untilPage(t *testing.T, n *Node, path string, code int, text string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, got := page(t, n, "GET", path)
		if c == code && strings.Contains(got, text) {
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%s: %d %q, not %d %q", path, c, got, code, text)
		}
	}
}

func TestPagesOfAVolume(t *testing.T) {
	c := newTrio(t, three, func(cfg *Config) { cfg.Metrics.Listen = "127.0.0.1:0" })
	c.startAll()
	via := c.address("n3")
	c.on(via, "v", "n1", "n2")
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]

	for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
		for path, want := range map[string][3]int{
			"/primary/v": {200, 503, 503}, "/replica/v": {200, 200, 503}, "/primary/w": {404, 404, 404}, "/replica/w": {404, 404, 404}, "/health": {200, 200, 200},
		} {
			for i, n := range []*Node{n1, n2, n3} {
				if code, text := page(t, n, method, path); code != want[i] || (text == "") != (method == "HEAD") {
					t.Errorf("%s: %s %s: %d %q, want %d", three[i], method, path, code, text, want[i])
				}
			}
		}
	}
	if code, _ := page(t, n1, "POST", "/primary/v"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", code)
	}
	untilPage(t, n2, "/primary/v", 503, "n1 is")
	untilPage(t, n3, "/replica/v", 503, "holds no replica")

	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n2"}); err != nil {
		t.Fatal(err)
	}
	untilPage(t, n2, "/primary/v", 200, "n2 is primary of volume v in generation 2")
	untilPage(t, n1, "/primary/v", 503, "n2 is")

	// Alone, n2 may not go on, and says so although nobody decides anything any more.
	c.kill("n1", "n3")
	untilPage(t, n2, "/primary/v", 503, "no lease")
	untilPage(t, n2, "/replica/v", 200, "UpToDate")
	untilPage(t, n2, "/primary/w", 404, "no volume")
	untilPage(t, n2, "/health", 503, "no leader")
}

func TestPagesOfAVolumeAlone(t *testing.T) {
	cfg := testConfig(t, "v=16MiB")
	var sick atomic.Bool
	n := start(t, cfg, failFS{env.OS{}, &sick})
	defer n.Stop(brief(t)) // it complains of its disk
	for _, path := range []string{"/primary/v", "/replica/v"} {
		untilPage(t, n, path, 200, "alone")
	}
	untilPage(t, n, "/primary/w", 404, `no volume "w"`)
	sick.Store(true)
	if err := blockdev.WriteAt(dial(t, n, "v"), block(1), 0, blockdev.FUA); err == nil {
		t.Fatal("a sick disk takes a write")
	}
	untilPage(t, n, "/primary/v", 503, "not served")
	untilPage(t, n, "/replica/v", 503, "not served")
}
