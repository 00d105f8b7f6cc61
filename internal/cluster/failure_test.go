package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"blkd/metadata"
	"blkd/metadata/metapb"
)

var three = []string{"n1", "n2", "n3"}

// Calls go on when the leader's process is killed, when its machine falls silent,
// and, without a pause, when it stops in order.
func TestLeaderEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*testNode)
		most time.Duration // until the next command succeeds, but for one in five: votes can be split twice
	}{
		{"stopped", (*testNode).stop, 300 * time.Millisecond},
		{"killed", (*testNode).kill, 2 * time.Second},
		{"power off", func(n *testNode) { n.powerOff(1) }, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			running(t, func(l *lab) {
				slow := 0
				for i := range 5 {
					leader, asker := l.leader(), l.follower()
					l.settle(three...)
					c.end(leader)
					began := time.Now() // of the lab, which no load stretches
					if _, err := asker.ask(patience, create(fmt.Sprint("v", i))); err != nil {
						t.Logf("the next command was refused: %v", err)
						asker.do(create(fmt.Sprint("v", i)))
					}
					took := time.Since(began)
					t.Logf("the next command took %v", took)
					if took > c.most {
						slow++
					}
					l.start(leader.cfg.Name)
					l.settle(three...)
					if !leader.hasVolume(fmt.Sprint("v", i)) {
						t.Error("the node that came back does not know what was done meanwhile")
					}
				}
				if slow > 1 {
					t.Errorf("%d of five times the next command took more than %v", slow, c.most)
				}
			}, three...)
		})
	}
}

// Without a majority commands end with NoQuorumError within 3 seconds, which says
// who is missing; when one voter comes back everything works again by itself.
func TestNoQuorum(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*testNode)
	}{{"stopped", (*testNode).stop}, {"killed", (*testNode).kill}, {"power off", func(n *testNode) { n.powerOff(1) }}} {
		t.Run(c.name, func(t *testing.T) {
			running(t, func(l *lab) {
				last := l.follower()
				var gone []string
				for _, n := range l.up() {
					if n != last {
						gone = append(gone, n.cfg.Name)
						c.end(n)
					}
				}
				began := time.Now()
				_, err := last.ask(patience, create("v"))
				var e *NoQuorumError
				if took := time.Since(began); !errors.As(err, &e) || took > 3*time.Second {
					t.Fatalf("after %v: %v", took, err)
				}
				if e.Have != 1 || e.Need != 2 || e.Voters != 3 || len(e.Missing) != 2 || !strings.HasPrefix(e.Missing[0], gone[0]+": not heard for") {
					t.Errorf("%+v", e)
				}
				began = time.Now()
				if err := last.Read(context.Background(), func(*metadata.State) {}); !noQuorum(err) || time.Since(began) > 300*time.Millisecond {
					t.Errorf("a later read ended after %v: %v", time.Since(began), err)
				}
				l.start(gone[0])
				l.settle(last.cfg.Name, gone[0])
				last.do(create("w")) // "v" may have been created meanwhile
				l.start(gone[1])
				l.settle(three...)
			}, three...)
		})
	}
}

// A leader that is cut off ends its calls and answers no reads; the others go on;
// when the network is whole again it follows.
func TestLeaderPartitioned(t *testing.T) {
	running(t, func(l *lab) {
		old, asker := l.leader(), l.follower()
		others := l.others(old.cfg.Name)
		l.net.part([]string{old.cfg.Name}, others)
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := old.ask(patience, create("lost")); !noQuorum(err) {
				t.Errorf("the old leader answered %v", err)
			}
		})
		asker.do(create("v"))
		stale := false
		if err := old.Read(context.Background(), func(s *metadata.State) { stale = s.Volume("v") == nil }); err == nil && stale {
			t.Error("the old leader served a stale read")
		}
		wait.Wait()
		l.net.heal()
		l.settle(three...)
		if !old.hasVolume("v") {
			t.Error("the old leader does not know what was done meanwhile")
		}
	}, three...)
}

// What two nodes cannot hear of each other, one way or both, with either as the
// leader, stops nothing for the third, and nothing at all for long.
func TestCutLinks(t *testing.T) {
	for _, c := range []struct {
		name string
		cut  func(*lab, string, string) // leader and follower
	}{
		{"leader to follower", func(l *lab, a, b string) { l.net.cut([]string{a}, []string{b}) }},
		{"follower to leader", func(l *lab, a, b string) { l.net.cut([]string{b}, []string{a}) }},
		{"leader and follower", func(l *lab, a, b string) { l.net.part([]string{a}, []string{b}) }},
		{"leader to all", func(l *lab, a, _ string) { l.net.cut([]string{a}, l.others(a)) }},
		{"all to leader", func(l *lab, a, _ string) { l.net.cut(l.others(a), []string{a}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			running(t, func(l *lab) {
				leader, follower := l.leader(), l.follower()
				third := l.others(leader.cfg.Name)
				third = slices.DeleteFunc(third, func(name string) bool { return name == follower.cfg.Name })
				c.cut(l, leader.cfg.Name, follower.cfg.Name)
				began := time.Now()
				for i := range 40 {
					l.node(third[0]).do(create(fmt.Sprint("v", i)))
					time.Sleep(250 * time.Millisecond)
				}
				t.Logf("40 commands in %v", time.Since(began))
				terms := l.node(third[0]).Status().Term
				if terms > 6 {
					t.Errorf("the leadership does not come to rest: term %d", terms)
				}
				l.net.heal()
				l.settle(three...)
				for _, n := range l.up() {
					if !n.hasVolume("v39") {
						t.Errorf("%s does not know what was done", n.cfg.Name)
					}
				}
			}, three...)
		})
	}
}

// A cut-off follower does not depose the leader when it comes back.
func TestFollowerReturns(t *testing.T) {
	running(t, func(l *lab) {
		leader, follower := l.leader(), l.follower()
		term := leader.Status().Term
		for range 3 {
			l.net.part([]string{follower.cfg.Name}, l.others(follower.cfg.Name))
			time.Sleep(10 * time.Second)
			l.net.heal()
			l.settle(three...)
		}
		if now := leader.Status(); now.Term != term || now.Leader != leader.cfg.Name {
			t.Errorf("node %s led in term %d; now %s does, in term %d", leader.cfg.Name, term, now.Leader, now.Term)
		}
	}, three...)
}

// Commands that are under way while leaders come and go, also when they are
// repeated elsewhere with the same request id, take effect once.
func TestAppliedOnce(t *testing.T) {
	running(t, func(l *lab) {
		stop := make(chan struct{})
		var wait sync.WaitGroup
		done := make([][]string, 4) // by client
		for i := range done {
			wait.Go(func() {
				for j := 0; ; j++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("v%d-%d", i, j)
					r := l.insist(name)
					if r.Code != metapb.Code_CODE_OK { // "exists" if it was applied before, and forgotten
						t.Errorf("%s: %v: %s", name, r.Code, r.Text)
					}
					done[i] = append(done[i], name)
					time.Sleep(50 * time.Millisecond) // else no time passes
				}
			})
		}
		for i := range 9 {
			leader := l.leader()
			name := leader.cfg.Name
			switch i % 3 {
			case 0:
				leader.kill()
			case 1:
				leader.stop()
			default:
				l.net.part([]string{name}, l.others(name))
			}
			time.Sleep(2 * time.Second)
			l.net.heal()
			if leader.Cluster == nil {
				l.start(name)
			}
			l.settle(three...)
		}
		close(stop)
		wait.Wait()
		all := slices.Concat(done...)
		t.Logf("%d commands", len(all))
		for _, n := range l.up() {
			n.view(func(s *metadata.State) {
				for _, name := range all {
					if made := timesCreated(s, name); made != 1 {
						t.Errorf("%s: volume %s was created %d times", n.cfg.Name, name, made)
						break
					}
				}
			})
		}
	}, three...)
}

// insist creates a volume, asking one node after the other with the same request
// id until one of them answers.
func (l *lab) insist(name string) *metapb.Result {
	command := create(name)
	command.Request = fmt.Appendf(nil, "%016s", name)
	for i := 0; ; i++ {
		if c := l.any(i); c != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			r, err := c.Do(ctx, command)
			cancel()
			if err == nil {
				return r
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// timesCreated is how often the history says that a volume was made.
func timesCreated(s *metadata.State, name string) int {
	made := 0
	for _, e := range s.History(name).GetEntries() {
		if strings.HasPrefix(e.What, "created") {
			made++
		}
	}
	return made
}
