package env

import (
	"fmt"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Duration is a time.Duration, for packages that must not reach the time
// package's clock.
type Duration = time.Duration

// Units of time, for the same packages.
const (
	Millisecond = time.Millisecond
	Second      = time.Second
)

// Clock tells the time and wakes. It is safe for concurrent use.
type Clock interface {
	// Now is the time since some fixed moment before. It never goes back, is
	// not touched by setting the clock, and goes on while the machine is
	// suspended: leases and silences are measured with it.
	Now() time.Duration
	// Wall is the time of day, for people only: it can jump.
	Wall() time.Time
	// AfterFunc calls f on a goroutine of its own after d.
	AfterFunc(d time.Duration, f func()) Timer
	// NewTicker ticks every d, which must be positive; the first tick may come
	// sooner. A tick that nobody has taken when the next one is due is dropped.
	NewTicker(d time.Duration) Ticker
}

// Timer is a call that is to come.
type Timer interface {
	// Stop takes the call back; false if it has been started or stopped before.
	Stop() bool
	// Reset makes the call come after d from now, once; it reports what Stop would.
	Reset(d time.Duration) bool
}

// Ticker ticks until it is stopped.
type Ticker interface {
	// C is the channel of the ticks; it is never closed.
	C() <-chan struct{}
	// Stop ends it.
	Stop()
}

// SystemClock is the operating system's clock: CLOCK_BOOTTIME. Its timers stand
// still while the machine is suspended, as all timers of Go do.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Duration {
	var ts unix.Timespec
	// It does not block: the scheduler need not know.
	_, _, errno := syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", errno)) // Linux has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// Wall implements Clock.
func (SystemClock) Wall() time.Time { return time.Now() }

// AfterFunc implements Clock.
func (SystemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// NewTicker implements Clock. All tickers of a process with the same period tick at
// the same moments: to wake an idle processor costs more than what most ticks do.
func (SystemClock) NewTicker(d time.Duration) Ticker {
	t := &systemTicker{ticks: make(chan struct{}, 1), every: d}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(t.untilDue(), t.tick)
	return t
}

// began is when all tickers of the process have begun.
var began = time.Now()

type systemTicker struct {
	ticks chan struct{}
	every time.Duration

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// untilDue is the time until the next multiple of the period, so that the rate has no
// drift. Ticks that were missed are not caught up on.
func (t *systemTicker) untilDue() time.Duration { return t.every - time.Since(began)%t.every }

func (t *systemTicker) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	select {
	case t.ticks <- struct{}{}:
	default:
	}
	t.timer.Reset(t.untilDue())
}

// C implements Ticker.
func (t *systemTicker) C() <-chan struct{} { return t.ticks }

// Stop implements Ticker.
func (t *systemTicker) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	t.timer.Stop()
}
