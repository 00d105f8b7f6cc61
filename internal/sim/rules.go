package sim

import "fmt"

// Rule is one of the protocol's rules, or something else that must hold, with what
// checks it.
type Rule struct {
	Name string // as in the protocol: S1, L1, I1, …
	Text string // what must hold
	By   string // the checker here; or, if it cannot be seen here, the test that has it
	Here bool   // it is checked here
}

// Rules lists all of them.
func Rules() []Rule { return rules }

var rules = []Rule{
	{"S1", "A generation has at most one primary.", "begun: who seals a generation is the one that the quorum named, in the run that it named", true},
	{"S2", "A member that has promised acts for no lower generation.", "arrive: a message of a lower generation changes neither log nor commit point", true},
	{"S3", "Acknowledged is what W of the recorded members hold; who does not count was taken out before.", "checkHeld: at each first commit", true},
	{"S4", "A promoted member serves with a log that so many seals prove.", "certified: its certificate against the record, and what is in its log", true},
	{"S5", "Nothing that was acknowledged is lost.", "served: whoever serves has all that was ever committed; committedBy: all commit the same", true},
	{"S6", "A read sees what is committed, and the newest of it.", "readBy: the value was the committed one at some moment between question and answer", true},
	{"S7", "A flush makes durable at W what was answered before it, on any connection.", "flushedTo: at each answer", true},
	{"S8", "Who may have lost entries counts for nothing; a recovery keeps what was flushed.", "certified, recovered", true},
	{"S9", "No torn stripe.", "checkShards: as if all stopped now and any m members were lost, what is decided is on every shard that counts", true},
	{"S10", "Only the attached client's requests act.", "checkFenced: of the mutations that are not committed", true},
	{"S11", "A disk of an earlier time has no standing.", "checkOld: it never counts, however a node came to start with it", true},
	{"S12", "No read returns bytes that fail their check.", "readBy, mendedBy, rebuiltAt", true},
	{"L1", "With a majority of everything alive, I/O resumes by itself.", "settle: all members are level, and answer, so long after the last fault", true},
	{"L2", "No plan is retried without a pause.", "settle: the record changes no more than so often after the last fault", true},
	{"L3", "A member that is slow does not hold up a majority.", "the scenario “a slow member does not hold writes and leaves”", true},
	{"L4", "What cannot go on waits; it does not fail.", "failedRequest: of each error that a client is told", true},
	{"I1", "One run of one node acts in a generation, and begins it once.", "roleChanged: at each beginning", true},
	{"I2", "A promise is durable and never falls.", "checkReaders: core against disk, and against what it was, at every step", true},
	{"I3", "What a client was told is held by W.", "writtenBy: it is committed; checkHeld: what is committed is held", true},
	{"I4", "The recorded set is one that the primary counts.", "recorded: at each change of the record", true},
	{"I5", "So many seals as a promotion needs contain the newest committed entry.", "checkSafe: over the disks, every few steps", true},
	{"I6", "At no instant may two nodes answer reads.", "checkReaders: at every step", true},
	{"I7", "Strict linearizability: a write that was not answered happens before the next generation serves, or never.", "checkHistory, by internal/history", true},
	{"I8", "What was read is never unread.", "readBy, checkHistory", true},
	{"I9", "What is said to one run of a node does not act on another.", "arrive: a message for another run changes nothing", true},
	{"I10", "Every change of the record compares generation and number.", "proposed, recorded", true},
	{"I11", "The same place and generation is the same entry after the same log.", "appendedBy: at each append", true},
	{"I12", "No generation serves whose log lacks what was known to be committed.", "certified: against all seals and the mark", true},
	{"I13", "What was flushed survives power loss of all.", "recovered", true},
	{"I14", "The shards of a stripe are of one decided batch.", "checkShards: any k shards bring back what was written", true},
	{"I15", "Nothing of a session acts after the next one was admitted.", "checkTakeover, and checkHistory", true},
	{"I16", "The image holds committed entries only.", "checkImage: whenever somebody comes to count", true},
	{"answer", "A request is answered once.", "done", true},
	{"equal", "Members that are level are the same, block by block.", "level, compared", true},
	{"once", "What a client sends again acts once, and is answered only when it has acted.", "actedBy: at each first commit; checkActed: at each answer; checkSessions: of members that are level", true},
	{"reach", "What a member that counts lacks, the log of each other one has.", "checkReach: over the disks, every few steps", true},
	{"evict", "A replica is out when that is reported.", "evictedBy", true},
	{"quorum", "A term has one leader, logs match, nothing that was decided is lost or other elsewhere, and no read misses it.", "wroteEntry, appliedAt, checkState, readDone, checkVoters", true},
	{"model", "Every step of the code is one that the model allows.", "replay: at each write, message, answer and change of a role or of the record; the violation names the step", true},
	{"assertion", "No assertion of the code fails.", "all of them", true},
	{"scenario", "What a scenario waits for happens.", "until", true},
}

// Violation tells that a rule was broken. It is an error.
type Violation struct {
	Rule string
	At   instant
	Text string
}

// Error tells rule, time and what was seen.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s at %.3fms: %s", v.Rule, float64(v.At)/1e6, v.Text)
}

// violate ends the run.
func (s *sim) violate(rule, format string, args ...any) {
	panic(&Violation{rule, s.now, fmt.Sprintf(format, args...)})
}

// guarded runs f and returns the rule that it breaks.
func (s *sim) guarded(f func()) (v *Violation) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *Violation:
			v = p
		default:
			v = &Violation{"assertion", s.now, fmt.Sprint(p)}
		}
		if v != nil {
			s.logf("%v", v)
		}
	}()
	f()
	return nil
}
