package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"blkd/internal/api"
)

// web is the HTTP server for monitoring.
type web struct {
	server  http.Server
	address net.Addr
}

// serveWeb starts the HTTP server, if an address is configured.
func (n *Node) serveWeb() error {
	if n.cfg.Metrics.Listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", n.cfg.Metrics.Listen)
	if err != nil {
		return fmt.Errorf("metrics: %w; choose another address with --metrics", err)
	}
	n.web = &web{address: l.Addr(), server: http.Server{Handler: n.handler(), ReadHeaderTimeout: 5 * time.Second}}
	n.serve("metrics", func() error {
		if err := n.web.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

func (w *web) stop(ctx context.Context) error {
	if err := w.server.Shutdown(ctx); err != nil {
		return w.server.Close()
	}
	return nil
}

func (n *Node) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{node: n}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { writeMetrics(w, registry) })
	n.handleHealth(mux)
	if n.cfg.Metrics.Pprof {
		handleProfiles(mux)
	}
	return mux
}

// writeMetrics writes the text format, which every version of Prometheus reads.
// It does without promhttp, which adds half a megabyte for other formats.
func writeMetrics(w http.ResponseWriter, from prometheus.Gatherer) {
	families, err := from.Gather()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	w.Header().Set("Content-Type", string(format))
	encoder := expfmt.NewEncoder(w, format)
	for _, f := range families {
		if encoder.Encode(f) != nil {
			return // the client has gone
		}
	}
}

// health answers 200 while every volume is served and 503 otherwise; the body
// names each problem.
func (n *Node) health(w http.ResponseWriter, _ *http.Request) {
	if n.member != nil {
		n.member.healthPage(w)
		return
	}
	status, err := n.status("")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	code, body := http.StatusOK, ""
	for _, p := range status.Problems {
		body += fmt.Sprintf("node %s: %s\n", status.Node, p.Text)
	}
	for _, v := range status.Volumes {
		if v.State == api.VolumeState_VOLUME_STATE_FAILED {
			code = http.StatusServiceUnavailable
		}
		for _, p := range v.Problems {
			body += fmt.Sprintf("volume %s: %s\n", v.Name, p.Text)
		}
	}
	if body == "" {
		body = "ok\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprint(w, body)
}
