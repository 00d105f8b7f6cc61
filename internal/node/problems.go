package node

import (
	"errors"
	"fmt"
	"io/fs"

	"blkd/internal/api"
	"blkd/internal/units"
)

// Codes of problems. They are part of the JSON contract (docs/json.md).
const (
	openFailed  = "open_failed"
	storeFailed = "store_failed"
	diskFull    = "disk_full"
	badBlock    = "bad_block"
	sizeDiffers = "size_differs"
	diskLow     = "disk_low"
	diskUnknown = "disk_unknown"
)

func openProblem(name string, err error) *api.Problem {
	p := &api.Problem{Code: openFailed, Text: "it is not open: " + err.Error(),
		Advice: "repair what the message names, then restart blkd"}
	if errors.Is(err, fs.ErrNotExist) { // it was never complete, and holds nothing
		p.Advice = "if blkd was stopped while it created or deleted the volume, remove the rest: blkctl volume delete " + name
	}
	return p
}

func failedProblem(err error) *api.Problem {
	return &api.Problem{Code: storeFailed,
		Text:   "it stopped at a disk error and its clients were disconnected: " + err.Error(),
		Advice: "check the disk (dmesg), then restart blkd; what was flushed is safe"}
}

func fullProblem(dataDir, onFull string) *api.Problem {
	p := &api.Problem{Code: diskFull,
		Text:   "the file system of " + dataDir + " is full and writes wait",
		Advice: "free space there; the writes then go on by themselves"}
	if onFull == "fail" {
		p.Text = "the file system of " + dataDir + " is full and writes fail with no space left (ENOSPC)"
		p.Advice = "free space there; no restart is needed"
	}
	return p
}

func badProblem(name string, blocks int) *api.Problem {
	text := "1 block fails its checksum; reads of it get an I/O error"
	if blocks > 1 {
		text = fmt.Sprintf("%d blocks fail their checksum; reads of them get an I/O error", blocks)
	}
	return &api.Problem{Code: badBlock, Text: text,
		Advice: "list them with: blkctl volume verify " + name + "; then write them again from a backup"}
}

// sizeProblem: a resize that the configuration does not know of must not keep
// the volume from being served at the next start, so it is only told.
func sizeProblem(name string, have, want int64) *api.Problem {
	return &api.Problem{Code: sizeDiffers,
		Text:   fmt.Sprintf("its size is %s but the configuration says %s", units.Exact(have), units.Exact(want)),
		Advice: fmt.Sprintf("run: blkctl volume resize %s %s; or correct the configuration", name, units.Exact(want))}
}

func lowProblem(dataDir string, free int64) *api.Problem {
	return &api.Problem{Code: diskLow,
		Text:   fmt.Sprintf("%s is left on the file system of %s", units.Size(free), dataDir),
		Advice: "free space there, or trim unused blocks in the volumes (fstrim)"}
}

func unknownDiskProblem(dataDir string, err error) *api.Problem {
	return &api.Problem{Code: diskUnknown,
		Text:   fmt.Sprintf("the file system of %s does not answer: %v", dataDir, err),
		Advice: "check the disk (dmesg)"}
}

// count is "1 client" or "2 clients".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
