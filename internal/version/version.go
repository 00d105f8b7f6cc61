// Package version says which build is running.
package version

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Number is the release, set at link time with
// -ldflags "-X blkd/internal/version.Number=1.2.3". Without it the version
// control revision that Go recorded is used.
var Number string

// Info describes a build.
type Info struct {
	Version  string `json:"version"`            // release number or "devel"
	Revision string `json:"revision,omitempty"` // commit, with "+dirty" for local changes
	Go       string `json:"go"`                 // Go release that built it
	Platform string `json:"platform"`           // "linux/amd64"
}

// Get describes the running binary.
func Get() Info {
	info := Info{Version: Number, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info.Version == "" {
		info.Version = "devel"
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	dirty := false
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty {
		info.Revision += "+dirty"
	}
	return info
}

// String is one line: "devel 0123456789ab (go1.26.0 linux/amd64)".
func (i Info) String() string {
	words := []string{i.Version}
	if i.Revision != "" {
		words = append(words, i.Revision)
	}
	return strings.Join(words, " ") + " (" + i.Go + " " + i.Platform + ")"
}
