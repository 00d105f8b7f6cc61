package metadata

import (
	"context"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
)

// logAt formats only what will be kept.
func logAt(l *slog.Logger, level slog.Level, source, format string, args []any) {
	if l.Enabled(context.Background(), level) {
		l.Log(context.Background(), level, fmt.Sprintf(format, args...), "source", source)
	}
}

// raftLogger is where Raft reports: what it calls information is for debugging here.
type raftLogger struct{ l *slog.Logger }

var _ raft.Logger = raftLogger{}

func (r raftLogger) line(level slog.Level, args []any) {
	logAt(r.l, level, "raft", "%s", []any{fmt.Sprint(args...)})
}

func (r raftLogger) Debug(v ...any)              { r.line(slog.LevelDebug, v) }
func (r raftLogger) Info(v ...any)               { r.line(slog.LevelDebug, v) }
func (r raftLogger) Warning(v ...any)            { r.line(slog.LevelWarn, v) }
func (r raftLogger) Error(v ...any)              { r.line(slog.LevelWarn, v) }
func (r raftLogger) Fatal(v ...any)              { panic(fmt.Sprint(v...)) }
func (r raftLogger) Panic(v ...any)              { panic(fmt.Sprint(v...)) }
func (r raftLogger) Debugf(f string, v ...any)   { logAt(r.l, slog.LevelDebug, "raft", f, v) }
func (r raftLogger) Infof(f string, v ...any)    { logAt(r.l, slog.LevelDebug, "raft", f, v) }
func (r raftLogger) Warningf(f string, v ...any) { logAt(r.l, slog.LevelWarn, "raft", f, v) }
func (r raftLogger) Errorf(f string, v ...any)   { logAt(r.l, slog.LevelWarn, "raft", f, v) }
func (r raftLogger) Fatalf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }
func (r raftLogger) Panicf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }
