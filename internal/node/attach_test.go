package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// attach attaches a volume and returns the export name that shows it.
func (c *trio) attach(via services, volume, holder string, takeover bool) string {
	c.t.Helper()
	v, err := via.volumes.Attach(brief(c.t), &api.AttachRequest{Name: volume, Holder: holder, Takeover: takeover})
	if err != nil {
		c.t.Fatal(err)
	}
	return token{id: v.Record.Id, number: v.Record.Attachment.Number}.of(volume)
}

// refusal is why a node does not serve an export.
func (c *trio) refusal(name, export string) string {
	c.t.Helper()
	client, err := nbd.Dial(brief(c.t), "nbd+unix:///"+export+"?socket="+c.cfgs[name].NBD.Listen[0][len("unix:"):], nbd.DialOptions{})
	if err == nil {
		client.Close()
		return ""
	}
	return err.Error()
}

func TestOneClientWrites(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.makeVolume(via, "v")
	first := c.attach(via, "v", "db1", false)
	db1 := c.dial("n1", first)
	if err := blockdev.WriteAt(db1, block(1), 0, 0); err != nil {
		t.Fatal(err)
	}
	_, err := via.volumes.Attach(brief(t), &api.AttachRequest{Name: "v", Holder: "db2"})
	if x := api.Explain(err); x.Code != codes.FailedPrecondition || !strings.Contains(x.Text, "attached by db1") || !strings.Contains(x.Advice, "--takeover") {
		t.Errorf("a second client: %v", err)
	}
	for _, name := range three {
		if text := c.refusal(name, "v"); !strings.Contains(text, "attached by db1") {
			t.Errorf("%s serves a client without a token: %q", name, text)
		}
	}
	reader := c.dial("n3", "v;read-only")
	mustHold(t, reader, 0, 1)
	if err := blockdev.WriteAt(reader, block(2), 0, 0); !reader.ReadOnly() || !errors.Is(err, blockdev.ErrReadOnly) {
		t.Errorf("a reader writes: %v", err)
	}

	second := c.attach(via, "v", "db2", true)
	for _, name := range three {
		if text := c.refusal(name, first); !strings.Contains(text, "fenced") || !strings.Contains(text, "db2") {
			t.Errorf("%s serves the client that was fenced: %q", name, text)
		}
	}
	if err := blockdev.WriteAt(db1, block(3), 0, 0); !errors.Is(err, blockdev.ErrIO) {
		t.Errorf("the client that was fenced writes: %v", err)
	}
	db2 := c.dial("n2", second)
	mustHold(t, db2, 0, 1)
	if err := blockdev.WriteAt(db2, block(4), 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := via.volumes.Detach(brief(t), &api.DetachRequest{Name: "v", Holder: "db1"}); api.Explain(err).Code != codes.FailedPrecondition {
		t.Errorf("db1 detaches db2: %v", err)
	}
	if _, err := via.volumes.Detach(brief(t), &api.DetachRequest{Name: "v", Holder: "db2"}); err != nil {
		t.Error(err)
	}
	stock := c.dial("n3", "v")
	mustHold(t, stock, 0, 4)
	if err := blockdev.WriteAt(stock, block(5), 0, 0); err != nil {
		t.Error(err)
	}
	_, err = via.volumes.Attach(brief(t), &api.AttachRequest{Name: "v", Holder: "db1"})
	if x := api.Explain(err); x.Code != codes.FailedPrecondition || !strings.Contains(x.Text, "1 connection of n3") {
		t.Errorf("attached while a client without a token writes: %v", err)
	}
	c.attach(via, "v", "db1", true)
	if err := blockdev.WriteAt(stock, block(6), 0, 0); err == nil {
		t.Error("a client without a token writes after a takeover")
	}
}

// TestNewSession: a client that comes back ends what it has sent before, and is told
// no error by that.
func TestNewSession(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.makeVolume(via, "v")
	for _, node := range []string{"n1", "n2"} { // the primary, and a node that passes on
		old := c.dial(node, c.attach(via, "v", "db1", false))
		if err := blockdev.WriteAt(old, block(1), 0, 0); err != nil {
			t.Fatal(err)
		}
		v, err := via.volumes.Attach(brief(t), &api.AttachRequest{Name: "v", Holder: "db1", Renew: true})
		if err != nil {
			t.Fatal(err)
		}
		now := c.dial("n3", token{id: v.Record.Id, number: v.Record.Attachment.Number}.of("v"))
		if err := blockdev.WriteAt(now, block(2), 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := blockdev.WriteAt(old, block(3), 0, 0); !errors.Is(err, nbd.ErrConnectionLost) {
			t.Errorf("over %s the earlier session is answered with %v", node, err)
		}
		mustHold(t, now, 0, 2)
	}
	if _, err := via.volumes.Attach(brief(t), &api.AttachRequest{Name: "v", Holder: "db2", Renew: true}); api.Explain(err).Code != codes.FailedPrecondition {
		t.Errorf("db2 renews what it does not hold: %v", err)
	}
}

// TestHostsOfOneName: a host does not get what another one of its name holds, unless it
// says so; and the one that has lost it cannot come back by itself. After a reboot the
// same machine gets it, and nothing of before the reboot acts.
func TestHostsOfOneName(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.makeVolume(via, "v")
	attach := func(machine, boot uint64, renew, takeover bool) (string, error) {
		v, err := via.volumes.Attach(brief(t), &api.AttachRequest{Name: "v", Holder: "db1", Renew: renew, Takeover: takeover, Machine: machine, Boot: boot})
		return token{id: v.GetRecord().GetId(), number: v.GetRecord().GetAttachment().GetNumber()}.of("v"), err
	}
	must := func(export string, err error) *nbd.Client {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
		return c.dial("n2", export)
	}
	must(attach(1, 10, false, false))
	first := must(attach(1, 10, true, false)) // its next session
	rebooted := must(attach(1, 11, false, false))
	if err := blockdev.WriteAt(rebooted, block(1), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(first, block(2), 0, 0); !errors.Is(err, blockdev.ErrIO) {
		t.Errorf("what was sent before a reboot is not refused after it: %v", err)
	}
	if _, err := attach(1, 10, true, false); api.Explain(err).Code != codes.FailedPrecondition {
		t.Errorf("an earlier boot renews its attachment: %v", err)
	}
	_, err := attach(2, 20, false, false)
	if x := api.Explain(err); x.Code != codes.FailedPrecondition || !strings.Contains(x.Text, "another host of the name db1") || !strings.Contains(x.Advice, "--holder") {
		t.Errorf("another host of the name attaches: %v", err)
	}
	must(attach(2, 20, false, true))
	if err := blockdev.WriteAt(rebooted, block(3), 0, 0); !errors.Is(err, blockdev.ErrIO) {
		t.Errorf("the host that was fenced writes: %v", err)
	}
	if _, err := attach(1, 11, true, false); api.Explain(err).Code != codes.FailedPrecondition {
		t.Errorf("it renews what another host of its name has taken: %v", err)
	}
	mustHold(t, c.dial("n3", "v;read-only"), 0, 1)
}

// TestStockClientMoves: a client without a token goes from one node to another while
// what it had sent through the first is still there. That must not act any more.
func TestStockClientMoves(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.makeVolume(via, "v")
	waits := c.dial("n1", "v")
	before := c.dial("n2", "v")
	if err := blockdev.WriteAt(before, block(1), 0, 0); err != nil {
		t.Fatal(err)
	}
	silent := c.dial("n2", "v") // has come, and has not written yet
	moved := c.dial("n3", "v")
	if err := blockdev.WriteAt(moved, block(2), 0, 0); err != nil {
		t.Fatal(err)
	}
	for name, late := range map[string]*nbd.Client{"wrote before": before, "had only come": silent, "had come before the volume was claimed": waits} {
		if err := blockdev.WriteAt(late, block(3), 0, 0); !errors.Is(err, nbd.ErrConnectionLost) {
			t.Errorf("a connection that %s is answered with %v", name, err)
		}
	}
	mustHold(t, moved, 0, 2)
	back := c.dial("n2", "v")
	for version := range 3 { // it may, if it comes anew
		var err error
		for range 100 {
			if err = blockdev.WriteAt(back, block(4+version), 0, 0); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond) // n2 had not heard of the move when it came
			back = c.dial("n2", "v")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mustHold(t, back, 0, 6)
	h, err := via.History(brief(t), &api.HistoryRequest{Volume: "v"})
	if err != nil {
		t.Fatal(err)
	}
	if last := h.Entries[len(h.Entries)-1].What; last != "taken over by "+metapb.ClientsOf("n2")+" from "+metapb.ClientsOf("n3") {
		t.Errorf("last in the history: %q", last)
	}
}

func TestToken(t *testing.T) {
	for _, p := range []string{"attachment=", "attachment=7", "attachment=0-7", "attachment=1-0", "attachment=1-7;attachment=1-8", "x", ";", "attachment=1-7;", "read-only=1",
		"session=", "session=0-1", "session=1-0", "session=1-2;session=1-3"} {
		if got, err := parseToken(p); err == nil {
			t.Errorf("%q is %+v", p, got)
		}
	}
	for _, want := range []token{{id: 3, number: 7}, {id: 3, number: 7, from: blockdev.Origin{Client: 1<<64 - 1, Session: 5}}} {
		if got, err := parseToken(strings.TrimPrefix(want.of("v"), "v;")); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if got, err := parseToken("read-only"); err != nil || !got.readOnly {
		t.Errorf("%+v, %v", got, err)
	}
}
