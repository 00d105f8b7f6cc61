package sim

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/replication"
)

var rewrite = flag.Bool("rewrite", false, "write the files of testdata/core anew")

// TestCoreGolden runs the scripts of testdata/core: what happens to the cores of a
// mirrored volume, and below it, indented, what they ask for. Nothing arrives, is
// synced or decided but as a script says; nothing is random.
//
//	nodes N                     n1 to nN, whose runs are 11, 12, …
//	connect A B | disconnect A B
//	record KEY=VALUE …          the quorum has decided: generation, number, primary, policy (all,
//	                            majority), min, attachment, members=n1,n2(Outdated); what is not
//	                            said stays as it was, but the number, which rises
//	  to=A,B                    only these hear of it
//	tick D                      time passes, and each core is told
//	deliver [A B]               what A has sent to B arrives; of nobody: of all, until nothing is under way
//	write A BLOCK | read A BLOCK | flush A | handover A B
//	sync A                      A's sync is done
//	crash A                     its run ends; its disk keeps all
//	start A                     it is opened in a new run
//
// With -rewrite the answers are written anew.
func TestCoreGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/core/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := playGolden(string(script))
			switch {
			case err != nil:
				t.Fatal(err)
			case *rewrite:
				if err := os.WriteFile(file, got, 0o666); err != nil {
					t.Fatal(err)
				}
			case !bytes.Equal(got, script):
				t.Errorf("%s is another one now: to see how, go test ./internal/sim -run CoreGolden -rewrite, and git diff", file)
			}
		})
	}
}

// golden runs one script.
type golden struct {
	out   bytes.Buffer
	now   instant
	rec   replication.Record
	nodes []*goldenNode
	up    map[[2]string]bool // connected, by from and to
	wires map[[2]string][]*replication.Message
}

type goldenNode struct {
	name string
	inc  replication.Incarnation
	disk *disk
	core *replication.Core // nil: it does not run
	ask  map[*replication.Request]string
}

func playGolden(script string) (out []byte, err error) {
	g := &golden{up: map[[2]string]bool{}, wires: map[[2]string][]*replication.Message{}, rec: replication.Record{Lineage: 1, Generation: 1, Policy: replication.AckAll,
		MinCopies: 1, Durability: replication.DurableFlush, Attachment: 1}}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("after\n%s\n%v", g.out.Bytes(), p)
		}
	}()
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, " ") {
			continue
		}
		g.out.WriteString(line)
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			words := strings.Fields(line)
			g.event(words[0], words[1:])
		}
	}
	return g.out.Bytes(), nil
}

func (g *golden) sayf(format string, args ...any) { fmt.Fprintf(&g.out, "  "+format+"\n", args...) }

func (g *golden) node(name string) *goldenNode {
	for _, n := range g.nodes {
		if n.name == name {
			return n
		}
	}
	panic("there is no node " + name)
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

func (g *golden) event(what string, args []string) {
	switch what {
	case "nodes":
		for i := range must(strconv.Atoi(args[0])) {
			n := &goldenNode{name: fmt.Sprint("n", i+1), inc: replication.Incarnation(11 + i), disk: newDisk()}
			g.nodes = append(g.nodes, n)
			g.open(n, true)
		}
	case "start":
		n := g.node(args[0])
		n.inc += 100
		g.open(n, false)
	case "crash":
		n := g.node(args[0])
		n.core = nil
		for _, m := range g.nodes {
			g.link(n, m, false)
		}
	case "connect", "disconnect":
		g.link(g.node(args[0]), g.node(args[1]), what == "connect")
	case "record":
		g.record(args)
	case "tick":
		g.now += instant(must(time.ParseDuration(args[0])))
		for _, n := range g.nodes {
			g.at(n, func(c *replication.Core) { c.Tick(g.now) })
		}
	case "deliver":
		g.deliver(args)
	case "sync":
		n := g.node(args[0])
		n.disk.synced = n.disk.content
		g.at(n, func(c *replication.Core) { c.Synced(g.now, nil) })
	case "handover":
		g.at(g.node(args[0]), func(c *replication.Core) {
			if err := c.Handover(g.now, replication.NodeID(args[1])); err != nil {
				g.sayf("%v", err)
			}
		})
	case "write", "read", "flush":
		g.request(what, g.node(args[0]), args[1:])
	default:
		panic("nothing is called " + what)
	}
}

func (g *golden) open(n *goldenNode, fresh bool) {
	n.ask = map[*replication.Request]string{}
	n.core = replication.NewCore(replication.Config{Self: replication.NodeID(n.name), Incarnation: n.inc, Replica: n.disk, Gate: n.disk, Now: g.now,
		Fresh: fresh, Durable: n.disk.durable(), Events: replication.Events{
			Role: func(r replication.Role, gen replication.Generation) {
				g.sayf("%s is %s of generation %d", n.name, r, gen)
			},
			Note: func(text string) { g.sayf("%s: %s", n.name, text) },
		}})
	g.at(n, func(*replication.Core) {})
}

// link connects two nodes, or breaks their connection.
func (g *golden) link(a, b *goldenNode, up bool) {
	if a == b {
		return
	}
	for _, x := range [][2]*goldenNode{{a, b}, {b, a}} {
		way := [2]string{x[0].name, x[1].name}
		delete(g.wires, way)
		g.up[way] = up
		g.at(x[0], func(c *replication.Core) {
			if peer := replication.NodeID(x[1].name); up {
				c.Connected(g.now, peer, replication.WireVersion)
			} else {
				c.Disconnected(g.now, peer)
			}
		})
	}
}

// record decides, and tells.
func (g *golden) record(args []string) {
	g.rec.Number++
	to := g.nodes
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "generation":
			g.rec.Generation = replication.Generation(must(strconv.Atoi(value)))
		case "primary":
			n := g.node(value)
			g.rec.Primary, g.rec.PrimaryIncarnation = replication.NodeID(value), n.inc
		case "policy":
			g.rec.Policy = map[string]replication.Policy{"all": replication.AckAll, "majority": replication.AckMajority}[value]
		case "min":
			g.rec.MinCopies = must(strconv.Atoi(value))
		case "attachment":
			g.rec.Attachment = uint64(must(strconv.Atoi(value)))
			g.rec.Fenced = g.rec.Attachment
		case "members":
			g.rec.Members = nil
			for _, text := range strings.Split(value, ",") {
				g.rec.Members = append(g.rec.Members, g.member(text))
			}
		case "to":
			to = nil
			for _, name := range strings.Split(value, ",") {
				to = append(to, g.node(name))
			}
		default:
			panic("a record has no " + key)
		}
	}
	rec := g.rec
	for _, n := range to {
		g.at(n, func(c *replication.Core) { c.Record(g.now, &rec) })
	}
}

func (g *golden) member(text string) replication.Member {
	name, state, _ := strings.Cut(strings.TrimSuffix(text, ")"), "(")
	m := replication.Member{Node: replication.NodeID(name), Incarnation: g.node(name).inc, State: replication.UpToDate}
	switch state {
	case "", "amnesiac":
		m.Amnesiac = state != ""
	case "Outdated":
		m.State = replication.Outdated
	case "Inconsistent":
		m.State = replication.Inconsistent
	default:
		panic("a member is not " + state)
	}
	return m
}

// deliver lets messages arrive, of each connection in order.
func (g *golden) deliver(args []string) {
	for moved := true; moved; {
		moved = false
		for _, from := range g.nodes {
			for _, to := range g.nodes {
				if len(args) > 0 && (from.name != args[0] || to.name != args[1]) {
					continue
				}
				key := [2]string{from.name, to.name}
				list := g.wires[key]
				delete(g.wires, key)
				for _, m := range list {
					g.at(to, func(c *replication.Core) { c.Receive(g.now, replication.NodeID(from.name), m) })
				}
				moved = moved || len(list) > 0
			}
		}
		if len(args) > 0 {
			return
		}
	}
}

func (g *golden) request(what string, n *goldenNode, args []string) {
	op := map[string]blockdev.Op{"write": blockdev.OpWrite, "read": blockdev.OpRead, "flush": blockdev.OpFlush}[what]
	r := &replication.Request{Op: op, Attachment: 1}
	if op != blockdev.OpFlush {
		r.Off, r.Len, r.Data = int64(must(strconv.Atoi(args[0])))*blockSize, blockSize, make([]byte, blockSize)
	}
	if op == blockdev.OpWrite {
		putTag(r.Data, uint64(r.Off/blockSize)+100)
	}
	n.ask[r] = strings.Join(append([]string{what}, args...), " ")
	g.at(n, func(c *replication.Core) { c.Submit(g.now, []*replication.Request{r}) })
}

// at lets something happen to a node's core, if it runs, and says what it asks for.
func (g *golden) at(n *goldenNode, do func(*replication.Core)) {
	if n.core == nil {
		return
	}
	do(n.core)
	e := n.core.Take()
	for _, x := range e.Sends {
		way := [2]string{n.name, string(x.To)}
		if !g.up[way] {
			continue
		}
		g.wires[way] = append(g.wires[way], x.Msg)
		g.sayf("%s -> %s %s", n.name, x.To, messageText(x.Msg))
	}
	for _, r := range e.Done {
		switch {
		case r.Err != nil:
			g.sayf("%s answers %s: %v", n.name, n.ask[r], r.Err)
		case r.Op == blockdev.OpRead:
			g.sayf("%s answers %s: %d", n.name, n.ask[r], tagOf(r.Data))
		default:
			g.sayf("%s answers %s, up to entry %d", n.name, n.ask[r], r.Last())
		}
	}
	if e.Hangup {
		g.sayf("%s hangs up on its clients", n.name)
	}
	if e.Failed != nil {
		g.sayf("%s ends: %v", n.name, e.Failed)
		n.core = nil
		return
	}
	if e.Sync {
		g.sayf("%s syncs", n.name)
	}
	for _, p := range e.Proposals {
		g.sayf("%s proposes at (%d, %d): %s", n.name, p.Generation, p.Number, proposalText(&p))
	}
	for _, r := range e.Reads {
		err := n.disk.read(r.Data, r.Off/blockSize*blockSize)
		g.at(n, func(c *replication.Core) { c.Read(g.now, r, err) })
	}
}

// messageText tells what of a message is not zero.
func messageText(m *replication.Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s gen %d", m.Kind, m.Gen)
	add := func(name string, x uint64) {
		if x != 0 {
			fmt.Fprintf(&b, " %s %d", name, x)
		}
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		fmt.Fprintf(&b, " [%d.%d %s]", e.Gen, e.Seq, map[blockdev.EntryKind]string{blockdev.EntryWrite: "write", blockdev.EntryMark: "mark"}[e.Kind])
	}
	add("prev", uint64(m.PrevSeq))
	add("commit", uint64(m.Commit))
	add("held", uint64(m.Held))
	add("durable", uint64(m.Durable))
	add("last", uint64(m.LastSeq))
	add("of gen", uint64(m.LastGen))
	add("promised", uint64(m.Promised))
	add("lease", m.Lease)
	add("piece", m.Copy)
	if m.Sync {
		b.WriteString(" sync")
	}
	if m.Refused {
		b.WriteString(" refused")
	}
	return b.String()
}

func proposalText(p *replication.Proposal) string {
	var b strings.Builder
	if p.Promote != "" {
		fmt.Fprintf(&b, "promote %s; ", p.Promote)
	}
	for _, m := range p.Members {
		fmt.Fprintf(&b, "%s %s; ", m.Node, map[replication.MemberState]string{replication.UpToDate: "UpToDate", replication.Syncing: "Syncing",
			replication.Outdated: "Outdated", replication.Inconsistent: "Inconsistent"}[m.State])
	}
	return b.String() + p.Why
}
