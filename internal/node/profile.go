package node

import (
	"fmt"
	"net/http"
	"runtime/pprof"
	"strconv"
	"time"
)

const (
	profileTime = 30 * time.Second // of a CPU profile, unless the request says so
	profileMost = 5 * time.Minute
)

// handleProfiles serves what "go tool pprof" asks for. It does without
// net/http/pprof, which adds half a megabyte for pages of its own.
func handleProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/{$}", listProfiles)
	mux.HandleFunc("GET /debug/pprof/profile", profileCPU)
	mux.HandleFunc("GET /debug/pprof/{name}", writeProfile)
}

// listProfiles names the profiles there are.
func listProfiles(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "profile")
	for _, p := range pprof.Profiles() {
		fmt.Fprintln(w, p.Name())
	}
}

// writeProfile writes a profile: compressed protobuf, or text with debug=1 or 2.
func writeProfile(w http.ResponseWriter, r *http.Request) {
	p := pprof.Lookup(r.PathValue("name"))
	if p == nil {
		http.Error(w, "there is no such profile; /debug/pprof/ lists them", http.StatusNotFound)
		return
	}
	debug, err := strconv.Atoi(r.FormValue("debug"))
	if err != nil {
		debug = 0
	}
	_ = p.WriteTo(w, debug) // it fails when the client has gone
}

// profileCPU profiles for as many seconds as the request says.
func profileCPU(w http.ResponseWriter, r *http.Request) {
	length := profileTime
	if s := r.FormValue("seconds"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || time.Duration(n) > profileMost/time.Second {
			http.Error(w, fmt.Sprintf("seconds: write a number from 1 to %d", profileMost/time.Second), http.StatusBadRequest)
			return
		}
		length = time.Duration(n) * time.Second
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := pprof.StartCPUProfile(w); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	defer pprof.StopCPUProfile()
	select {
	case <-r.Context().Done():
	case <-time.After(length):
	}
}
