package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

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
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", n.health)
	if n.cfg.Metrics.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
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
