package cli

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal tells whether w is a person's terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// statusLine shows progress in one line that is written over; nothing when it
// is off.
type statusLine struct {
	w     io.Writer
	on    bool
	shown bool
}

const clearLine = "\r\x1b[K"

func (l *statusLine) set(text string) {
	if l.on {
		fmt.Fprint(l.w, clearLine, text)
		l.shown = true
	}
}

// end takes the line away.
func (l *statusLine) end() {
	if l.shown {
		fmt.Fprint(l.w, clearLine)
	}
}
