package metadata

import (
	"fmt"
	"log/slog"

	"blkd/internal/env"
	"blkd/internal/env/pebblefs"

	"github.com/cockroachdb/pebble/v2"
)

// Sizes are small because a witness must stay under 64 MiB.
const (
	memTableBytes = 2 << 20
	memTables     = 4 // writes wait when so many are full
	cacheBytes    = 4 << 20
)

// pebbleFormat is pinned: it is raised by a decision, never by an update of the
// library. From this one on Pebble can tell a torn end of its log, which is what
// a crash leaves, from damage in the middle.
const pebbleFormat = pebble.FormatWALSyncChunks

func (l *Log) pebbleOptions(fs env.FS) *pebble.Options {
	o := &pebble.Options{
		FS:                          pebblefs.New(stopFS{fs, l}),
		FormatMajorVersion:          pebbleFormat,
		MemTableSize:                memTableBytes,
		MemTableStopWritesThreshold: memTables,
		CacheSize:                   cacheBytes,
		MaxOpenFiles:                64,
		DisableTableStats:           true, // a goroutine that reads for statistics
		DisableAutomaticCompactions: l.options.manual,
		Logger:                      pebbleLogger{l},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { l.fail("write in the background", err) }, //nolint:errcheck // recorded
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				l.fail("read "+i.Path, fmt.Errorf("%w: %w", errDamaged, i.Details)) //nolint:errcheck // recorded
			},
		},
	}
	if l.options.manual { // the other scheduler outlives an Open that fails
		o.Experimental.CompactionScheduler = pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	}
	return o
}

// pebbleLogger is where Pebble reports. Its Fatalf must not return by contract,
// in fact Pebble unwinds behind it with an error or, after a failed commit, as if
// nothing had happened; so a failure is recorded here, and [Log.commit] looks.
type pebbleLogger struct{ l *Log }

// Infof implements pebble.Logger.
func (p pebbleLogger) Infof(format string, args ...any) { p.log(slog.LevelDebug, format, args) }

// Errorf implements pebble.Logger.
func (p pebbleLogger) Errorf(format string, args ...any) { p.log(slog.LevelWarn, format, args) }

// Fatalf implements pebble.Logger.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err = cause // Pebble formats it with %s: keep what errors.Is looks for
		}
	}
	p.l.fail("write", err) //nolint:errcheck // recorded
}

func (p pebbleLogger) log(level slog.Level, format string, args []any) {
	logAt(p.l.logger.Load(), level, "pebble", format, args)
}
