package nbd

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"blkd/blockdev"
)

// ownDevice is the device of one connection.
type ownDevice struct {
	blockdev.Device
	closed *atomic.Int32
}

func (d ownDevice) Close() error {
	d.closed.Add(1)
	return nil
}

// TestExportOpensDevices: each connection has a device of its own, by the parameters of
// the export's name, which is closed at its end; and its opener can hang up.
func TestExportOpensDevices(t *testing.T) {
	var closed atomic.Int32
	var hangUp func()
	memory := blockdev.NewMemory(1 << 20)
	s := NewServer(Options{})
	defer s.Close()
	err := s.SetExport(Export{Name: "v", Device: memory, Open: func(o Opening) (blockdev.Device, error) {
		if o.Parameters == "no" {
			return nil, errors.New("that one may not")
		}
		hangUp = o.HangUp
		return ownDevice{memory, &closed}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(export string) (*Client, chan struct{}, error) {
		ended := make(chan struct{})
		c, err := Dial(t.Context(), "nbd://x/"+export, DialOptions{Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				s.ServeConn(far)
				close(ended)
			}()
			return near, nil
		}})
		return c, ended, err
	}
	if _, _, err := dial("v;no"); err == nil || !strings.Contains(err.Error(), "that one may not") {
		t.Errorf("refused with %v", err)
	}
	c, ended, err := dial("v;a=1;b=2")
	if err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(c, make([]byte, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	hangUp()
	<-ended
	if err := blockdev.Flush(c); !errors.Is(err, ErrConnectionLost) {
		t.Errorf("after a hang-up: %v", err)
	}
	if n := closed.Load(); n != 1 {
		t.Errorf("%d devices were closed", n)
	}
}
