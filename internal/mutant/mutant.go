// Package mutant holds switches for planted bugs. They show that the tests can
// fail: with a switch on, the crash test or the simulator has to find the bug
// within a bounded number of seeds.
//
// At the place of the bug the code says, for example,
//
//	if !mutant.On(mutant.StoreSkipLogSync) {
//		err = f.Sync()
//	}
//
// An ordinary build has no switches: On is a constant false and the compiler
// removes the branch. Only with the build tag "mutants" can a bug be switched
// on, by Set or from the start by the environment variable of Variable.
package mutant

import "fmt"

// Variable is the environment variable that, in a build with the tag mutants,
// switches one bug on by its name, so that whole programs can be tested too.
const Variable = "MUTANT"

// ID names a planted bug.
type ID uint8

// The planted bugs. What each does is in the table of All.
const (
	StoreSkipLogSync ID = iota
	StoreReplayOrder
	StoreStaleChecksum
	StoreSkipImageSync
	StorePourUnsynced
	StorePourUnmarked
	StoreReviveTail
	StoreTrustPayload
	StoreEarlyReuse
	StoreReapply
	StorePartialFlush
	StoreCrossLap
	StoreForgetTail
	StoreStaleHead
	StoreStalePage
	StoreCommitUnmarked
	StorePartialCommit
	StoreEarlyEdges
	StoreWriteCutTail
	StoreTrustCache
	StorePourPinned
	StoreReplayPins
	StoreResetUnmarked
	StoreCompleteEarly
	StoreCutCopied
	StoreRejoinRemnants
	StoreQuietTrim
	StoreQuietPour
	StoreForgetSessions
	StoreShowSuperseded
	DetectorOldRun
	DetectorNoHysteresis
	DetectorNoHold
	DetectorBlameOthers
	DetectorFixedWait
	DetectorRepeatedBeat
	DetectorBurst
	DetectorAskNobody
	DetectorIgnoreDeaf
	StewardRemoveFirst
	StewardTwoAtOnce
	StewardFarBehind
	StewardAnyQuorum
	StewardNoPause
	StewardCountWorking
	StewardRestless
	StewardOldVerdict
	StewardHoldForever
	FailoverWhileUp
	FailoverAmnesiac
	FailoverNoPause
	FailoverUnsealed
	FailoverHastyService
	StateApplyTwice
	StateAnyGeneration
	StateAnyNumber
	StateQuietTakeover
	StateShrinkAny
	StateOldVerdict
	StatePromoteAny
	StatePromoteAmnesiac
	StateCarryUnclean
	CoreStaleRead
	CoreEarlyAnswer
	LogSkipSync
	LogForgetVote
	LogKeepConflict
	GateSkipSync
	GateForgetName
	GateTrustCache
	GateAcceptLower
	GateForgetLineage
	ServiceOldNews
	ServiceKeepLost
	ServiceLeaveStuck
	ServiceStopInOrder
	ServiceReleaseEarly
	ReplicaAckMajority
	ReplicaDropUndecided
	ReplicaCountOneSet
	ReplicaFrozenSet
	ReplicaAckUndurable
	ReplicaAckUnheld
	ReplicaOldEntries
	ReplicaHeldIsDurable
	ReplicaMinCopies
	ReplicaMendUnlocked
	ReplicaCommitAhead
	ReplicaPromiseVolatile
	ReplicaOlderGeneration
	ReplicaNoLeaseWait
	ReplicaOwnLease
	ReplicaForgetGrant
	ReplicaEndlessGrant
	ReplicaResume
	ReplicaKeepTail
	ReplicaFewSeals
	ReplicaOwnLog
	ReplicaLongestLog
	ReplicaFetchGiveUp
	ReplicaAmnesiacSeals
	ReplicaServeEarly
	ReplicaDropSilent
	ReplicaForgetChange
	ReplicaShrinkLosing
	ReplicaShrinkEarly
	ReplicaGrowLacking
	ReplicaUnfrozen
	ReplicaHalfCopy
	ReplicaSuffixAny
	ReplicaResumeCopy
	ReplicaRejoinAny
	ReplicaTrustCommit
	ReplicaCopyUnlocked
	ReplicaCopyAgain
	ReplicaCopySmall
	ReplicaMarkSmall
	ReplicaCopyGreedy
	ReplicaFewerWaits
	ReplicaSmallPieces
	ReplicaCutLagging
	ReplicaGrowShort
	ReplicaChosenWaits
	ReplicaOneLease
	ReplicaNoLease
	ReplicaLeaseLong
	ReplicaLeaseOneSet
	ReplicaLateRelease
	ReplicaReleasedLease
	ReplicaModifyInFlight
	ReplicaModifyUnlocked
	ReplicaFlushOwn
	ReplicaFlushNothing
	ReplicaSyncEarly
	ReplicaAnswerAll
	ReplicaLateFence
	ReplicaEarlyTakeover
	ReplicaFenceModify
	ReplicaOldSession
	ReplicaFenceSession
	ReplicaRecoverSome
	ReplicaRecoverOwn
	ReplicaRecoverVolatile
	ReplicaAnyRun
	ReplicaSyncAgain
	ClusterOldDisk
	ClusterIOError
	BranchDrop
	GatewayClaimAny
	GatewayRenewAny
	ReplicaUnprepared
	ReplicaShardOutsider
	ReplicaNewestBatch
	ReplicaReuseBatch
	ReplicaMixBatches
	ReplicaSkipStaged
	ReplicaPreparedVolatile
	ReplicaMendNever
	ReplicaMendBlind
	ReplicaGrowUnpoured
	ReplicaAnswerEmptied
	ReplicaCompareMixed
	ReplicaMapPoured
	ReplicaCopyOther
	ReplicaChangesAny
	ReplicaChangesFew
	ReplicaKeepOther
	ReplicaPreparedHeld
	ReplicaCurrentVolatile
	ReplicaChainAny
	ReplicaDecideGivenUp
	ReplicaShowSuperseded
	ReplicaPourWritten
	ReplicaPourAhead
	ReplicaFenceLarge
	ReplicaPreparedStale
	ReplicaRepeat
	ReplicaRepeatEarly
	ReplicaRepeatWhole
	ReplicaBegunDone
	ReplicaForgetSessions
	ReplicaForgetTail
	ReplicaResetSessions
	ReplicaEmptyLog
	ReplicaAckStale
	QuorumStaleRead
	numIDs
)

// Info describes a planted bug.
type Info struct {
	ID   ID
	Name string // package and bug, as in "store/skip-log-sync"
	Text string // what goes wrong, one line
}

var table = [numIDs]Info{
	{StoreSkipLogSync, "store/skip-log-sync", "A flush reports success without syncing the log."},
	{StoreReplayOrder, "store/replay-order", "Recovery replays the entries of the log from the last to the first."},
	{StoreStaleChecksum, "store/stale-checksum", "Destaging a block to the image keeps the old checksum on disk."},
	{StoreSkipImageSync, "store/skip-image-sync", "A flush syncs the log, but not the payload that its references point to."},
	{StorePourUnsynced, "store/pour-unsynced", "Blocks are poured into the image before the log that holds them is synced."},
	{StorePourUnmarked, "store/pour-unmarked", "Pouring begins before the superblock says up to where the log is durable."},
	{StoreReviveTail, "store/revive-tail", "Recovery takes records of an older incarnation behind the end of the log."},
	{StoreTrustPayload, "store/trust-payload", "Recovery does not verify the payload of references that were not flushed."},
	{StoreEarlyReuse, "store/early-reuse", "A chunk is handed out again before a checkpoint has forgotten its old content."},
	{StoreReapply, "store/reapply", "Replay applies references that the map already reflects."},
	{StorePartialFlush, "store/partial-flush", "A page of the map counts although its checkpoint was not completed."},
	{StoreCrossLap, "store/cross-lap", "A batch that fills a lap of the log exactly goes on behind the end of the file."},
	{StoreForgetTail, "store/forget-tail", "Recovery has no place for entries of a part that a smaller volume no longer has."},
	{StoreStaleHead, "store/stale-head", "A batch whose entry found no space goes on where the log ended before it waited."},
	{StoreStalePage, "store/stale-page", "A map page that was read during a checkpoint is used although the checkpoint wrote it."},
	{StoreCommitUnmarked, "store/commit-unmarked", "A checkpoint writes pages before the superblock says that what they reflect is committed."},
	{StorePartialCommit, "store/partial-commit", "A checkpoint takes an entry that is applied in part for one that is not committed."},
	{StoreEarlyEdges, "store/early-edges", "The edges of a trim may be poured before the trim counts as applied."},
	{StoreWriteCutTail, "store/write-cut-tail", "A write that was checked before the volume shrank reaches beyond the new end."},
	{StoreTrustCache, "store/trust-cache", "Recovery syncs, but does not write again, what a failed sync may have left in the page cache alone."},
	{StorePourPinned, "store/pour-pinned", "A block is poured over the payload of a reference that a member may lack."},
	{StoreReplayPins, "store/replay-pins", "Opening does not protect the payloads that members may lack."},
	{StoreResetUnmarked, "store/reset-unmarked", "A crash while a replica is emptied leaves parts of what it held."},
	{StoreCompleteEarly, "store/complete-early", "A copy is declared complete before what was imported is durable."},
	{StoreCutCopied, "store/cut-copied", "A replica counts as whole after entries were cut whose effects a copy has brought."},
	{StoreRejoinRemnants, "store/rejoin-remnants", "What a copy that was broken off has left of pages comes to life when it goes on."},
	{StoreQuietTrim, "store/quiet-trim", "A trim of what was only in the log does not count as a change."},
	{StoreQuietPour, "store/quiet-pour", "What is poured does not count as a change."},
	{StoreForgetSessions, "store/forget-sessions", "The log is let go without keeping which operations it held."},
	{StoreShowSuperseded, "store/show-superseded", "A log shows what it had of a range that is kept elsewhere since."},
	{DetectorOldRun, "detector/old-run", "A beat of a run that is not registered counts as a sign of life."},
	{DetectorNoHysteresis, "detector/no-hysteresis", "One beat brings a failed node back."},
	{DetectorNoHold, "detector/no-hold", "A node that comes and goes is not held back."},
	{DetectorBlameOthers, "detector/blame-others", "A node that was asleep itself takes its peers for silent."},
	{DetectorFixedWait, "detector/fixed-wait", "The wait for a beat does not adapt to the gaps between beats."},
	{DetectorRepeatedBeat, "detector/repeated-beat", "A beat that arrives again, or late, counts as a new one."},
	{DetectorBurst, "detector/burst", "Delayed beats that arrive together count as beats in a row."},
	{DetectorAskNobody, "detector/ask-nobody", "A node that others hear is called down."},
	{DetectorIgnoreDeaf, "detector/ignore-deaf", "A network that is cut one way is not noticed."},
	{StewardRemoveFirst, "steward/remove-first", "A voter leaves before the one that replaces it has come."},
	{StewardTwoAtOnce, "steward/two-at-once", "A change of the voters is asked for while another may be under way."},
	{StewardFarBehind, "steward/far-behind", "A node may vote whose log is far behind."},
	{StewardAnyQuorum, "steward/any-quorum", "The voters are changed without a majority that works."},
	{StewardNoPause, "steward/no-pause", "What had no effect is tried again at once."},
	{StewardCountWorking, "steward/count-working", "Voters that are down are counted out."},
	{StewardRestless, "steward/restless", "Voters are exchanged for others that are no better."},
	{StewardOldVerdict, "steward/old-verdict", "A verdict on an earlier run of a node is recorded for the present one."},
	{StewardHoldForever, "steward/hold-forever", "The end of a hold is not recorded."},
	{FailoverWhileUp, "failover/while-up", "A primary that works, but late, is replaced."},
	{FailoverAmnesiac, "failover/amnesiac", "A member is chosen that may have lost entries."},
	{FailoverNoPause, "failover/no-pause", "A promotion that had no effect is asked for again at once."},
	{FailoverUnsealed, "failover/unsealed", "A member is chosen though too few others answer to seal the log."},
	{FailoverHastyService, "failover/hasty-service", "A service leaves a node that has been down for a moment only."},
	{StateApplyTwice, "state/apply-twice", "A request that is repeated is applied again."},
	{StateAnyGeneration, "state/any-generation", "A change of a record does not compare the generation."},
	{StateAnyNumber, "state/any-number", "A change of a record does not compare its number."},
	{StateQuietTakeover, "state/quiet-takeover", "A client takes a volume over without a new attachment number."},
	{StateShrinkAny, "state/shrink-any", "Members may leave until fewer than min-copies are left."},
	{StateOldVerdict, "state/old-verdict", "A verdict about an earlier run of a node is believed."},
	{StatePromoteAny, "state/promote-any", "A node that is not a member is promoted."},
	{StatePromoteAmnesiac, "state/promote-amnesiac", "A member that may have lost entries is promoted."},
	{StateCarryUnclean, "state/carry-unclean", "A restart after power loss keeps its memberships."},
	{CoreStaleRead, "core/stale-read", "A read does not ask the leader what is committed."},
	{CoreEarlyAnswer, "core/early-answer", "Votes and acknowledgements go out before the disk has synced them."},
	{LogSkipSync, "log/skip-sync", "Entries are acknowledged that are not synced."},
	{LogForgetVote, "log/forget-vote", "A vote is not made durable."},
	{LogKeepConflict, "log/keep-conflict", "Entries that another leader's replaced are left behind them."},
	{GateSkipSync, "gate/skip-sync", "A promise is answered before it is synced."},
	{GateForgetName, "gate/forget-name", "The directory is not synced after the promise's file was created."},
	{GateTrustCache, "gate/trust-cache", "What is found on opening is taken for durable, although only the page cache may have it."},
	{GateAcceptLower, "gate/accept-lower", "A lower generation than promised is promised."},
	{GateForgetLineage, "gate/forget-lineage", "A lineage that was left may be entered again, and its promises are forgotten."},
	{ServiceOldNews, "service/old-news", "An older record of a volume is believed after a newer one."},
	{ServiceKeepLost, "service/keep-lost", "A service goes on although another client holds its volume."},
	{ServiceLeaveStuck, "service/leave-stuck", "A volume is given up although a step did not stop."},
	{ServiceStopInOrder, "service/stop-in-order", "The steps of a service are stopped in the order in which they were started."},
	{ServiceReleaseEarly, "service/release-early", "A volume is given up before the steps have stopped."},
	{ReplicaAckMajority, "replica/ack-majority", "A majority is enough although the policy is all."},
	{ReplicaDropUndecided, "replica/drop-undecided", "A member that is to leave is not waited for although the quorum has not decided."},
	{ReplicaCountOneSet, "replica/count-one-set", "Writes are counted under the recorded set alone while a change of it is undecided."},
	{ReplicaFrozenSet, "replica/frozen-set", "The set that counts is that of the time when the generation began."},
	{ReplicaAckUndurable, "replica/ack-undurable", "A member says that entries are durable before it has synced them."},
	{ReplicaAckUnheld, "replica/ack-unheld", "A member acknowledges entries before it has appended them."},
	{ReplicaOldEntries, "replica/old-entries", "Entries of older generations are committed by counting."},
	{ReplicaHeldIsDurable, "replica/held-is-durable", "Durability write counts what is only held."},
	{ReplicaMinCopies, "replica/min-copies", "Writes are answered below min-copies."},
	{ReplicaMendUnlocked, "replica/mend-unlocked", "Clients write to a block while it is asked for at another member and written again."},
	{ReplicaCommitAhead, "replica/commit-ahead", "A member commits entries of its own tail when its primary has committed others there."},
	{ReplicaPromiseVolatile, "replica/promise-volatile", "A promise is not made durable."},
	{ReplicaOlderGeneration, "replica/older-generation", "A member takes entries of an older generation than it promised."},
	{ReplicaNoLeaseWait, "replica/no-lease-wait", "A member seals while a lease that it gave is alive."},
	{ReplicaOwnLease, "replica/own-lease", "A promoted member does not wait out the lease that it gave itself."},
	{ReplicaForgetGrant, "replica/forget-grant", "A restarted member does not wait out the lease that its earlier run gave."},
	{ReplicaEndlessGrant, "replica/endless-grant", "A member renews a lease while it is asked to seal."},
	{ReplicaResume, "replica/resume", "A restarted or deposed primary resumes its generation."},
	{ReplicaKeepTail, "replica/keep-tail", "A tail that conflicts with the chosen log is kept: entries are compared by place alone."},
	{ReplicaFewSeals, "replica/few-seals", "One seal too few is enough to choose a log."},
	{ReplicaOwnLog, "replica/own-log", "A promoted member takes its own log, not the best."},
	{ReplicaLongestLog, "replica/longest-log", "The longest log is chosen, whatever its generation."},
	{ReplicaFetchGiveUp, "replica/fetch-give-up", "A log that cannot be fetched is done without, and its seal counts."},
	{ReplicaAmnesiacSeals, "replica/amnesiac-seals", "A member that may have lost entries counts in a seal."},
	{ReplicaServeEarly, "replica/serve-early", "Reads are served before the first entry of the generation is committed."},
	{ReplicaDropSilent, "replica/drop-silent", "A promoted member goes on without members that are silent, and asks nobody."},
	{ReplicaForgetChange, "replica/forget-change", "A change that is not decided is forgotten after a while."},
	{ReplicaShrinkLosing, "replica/shrink-losing", "Members leave although those that stay do not hold all that is committed durably."},
	{ReplicaShrinkEarly, "replica/shrink-early", "Members leave before the chosen log is committed, as if only the commit point counted."},
	{ReplicaGrowLacking, "replica/grow-lacking", "A replica becomes a member although it lacks entries that are committed."},
	{ReplicaUnfrozen, "replica/unfrozen", "Writes are committed while a change waits for what is committed to be durable."},
	{ReplicaHalfCopy, "replica/half-copy", "A replica counts as complete before everything was copied."},
	{ReplicaSuffixAny, "replica/suffix-any", "A replica joins by the log from wherever its own ends."},
	{ReplicaResumeCopy, "replica/resume-copy", "A copy that was broken off counts as content."},
	{ReplicaRejoinAny, "replica/rejoin-any", "A replica is brought level by what has changed since an entry that is not on the same log."},
	{ReplicaTrustCommit, "replica/trust-commit", "What a replica has committed is taken for a part of the log, also after a recovery."},
	{ReplicaCopyUnlocked, "replica/copy-unlocked", "Writes go on in a range that is read for a copy."},
	{ReplicaCopyAgain, "replica/copy-again", "Pieces of a copy that were lost with a connection are not sent again."},
	{ReplicaCopySmall, "replica/copy-small", "A replica that is copied is not told how large the volume is."},
	{ReplicaMarkSmall, "replica/mark-small", "A generation does not begin by telling how large the volume is."},
	{ReplicaCopyGreedy, "replica/copy-greedy", "A copy takes what it can get, whatever clients want."},
	{ReplicaFewerWaits, "replica/fewer-waits", "Min-copies cannot be lowered before as many copies as now have everything."},
	{ReplicaSmallPieces, "replica/small-pieces", "Who catches up is sent however little fits into its window."},
	{ReplicaCutLagging, "replica/cut-lagging", "The log is cut although a member that counts lacks it."},
	{ReplicaGrowShort, "replica/grow-short", "A replica becomes a member although its log lacks what another member needs."},
	{ReplicaChosenWaits, "replica/chosen-waits", "A promoted member copies to nobody before its log is committed."},
	{ReplicaOneLease, "replica/one-lease", "A lease from any one member is enough."},
	{ReplicaNoLease, "replica/no-lease", "Reads are answered without a lease."},
	{ReplicaLeaseLong, "replica/lease-long", "A lease is believed from when it was granted, not from when it was asked for."},
	{ReplicaLeaseOneSet, "replica/lease-one-set", "Leases are counted under one set while a change is undecided."},
	{ReplicaLateRelease, "replica/late-release", "A release ends a newer lease than the one it names."},
	{ReplicaReleasedLease, "replica/released-lease", "A grant that arrives after its lease was released is believed."},
	{ReplicaModifyInFlight, "replica/modify-in-flight", "A block is read to be changed in part while a write of it is under way."},
	{ReplicaModifyUnlocked, "replica/modify-unlocked", "Writes pass one that reads its block to change it in part."},
	{ReplicaFlushOwn, "replica/flush-own", "A flush is answered when the primary alone has synced."},
	{ReplicaFlushNothing, "replica/flush-nothing", "A flush covers nothing that others wrote."},
	{ReplicaSyncEarly, "replica/sync-early", "A sync covers what was appended after it began."},
	{ReplicaAnswerAll, "replica/answer-all", "A primary that steps down answers what is under way as done."},
	{ReplicaLateFence, "replica/late-fence", "Requests of a client that lost the volume still act."},
	{ReplicaEarlyTakeover, "replica/early-takeover", "A takeover is reported while writes of the client before are under way."},
	{ReplicaFenceModify, "replica/fence-modify", "A client that lost the volume ends what it had begun to change in part."},
	{ReplicaOldSession, "replica/old-session", "What an earlier session of the same client has sent still acts."},
	{ReplicaFenceSession, "replica/fence-session", "An earlier session is answered with an error, as if another client held the volume."},
	{ReplicaRecoverSome, "replica/recover-some", "A recovery does not wait for all logs."},
	{ReplicaRecoverOwn, "replica/recover-own", "A recovery takes the log of whoever asks."},
	{ReplicaRecoverVolatile, "replica/recover-volatile", "A recovery takes a log that is not durable."},
	{ReplicaAnyRun, "replica/any-run", "A message for an earlier run of a node acts on a later one."},
	{ReplicaSyncAgain, "replica/sync-again", "A sync that has failed is tried again."},
	{ClusterOldDisk, "cluster/old-disk", "A node may start with an image of its disk from an earlier time."},
	{ClusterIOError, "cluster/io-error", "A node that ended on an I/O error keeps its memberships."},
	{BranchDrop, "branch/drop", "What a forced promotion has left is emptied, not kept."},
	{GatewayClaimAny, "gateway/claim-any", "A client without a token gets the volume although others had it since the client came."},
	{GatewayRenewAny, "gateway/renew-any", "A host begins a new session although another boot, or another host of its name, has taken the volume."},
	{ReplicaUnprepared, "replica/unprepared", "A batch is decided before every shard has stored it."},
	{ReplicaShardOutsider, "replica/shard-outsider", "A batch is decided when enough shards have it, whether they count or not."},
	{ReplicaNewestBatch, "replica/newest-batch", "A shard recovers to the newest batch that it holds, decided or not."},
	{ReplicaReuseBatch, "replica/reuse-batch", "The next generation gives its batches numbers that were used before."},
	{ReplicaMixBatches, "replica/mix-batches", "A shard is rebuilt from shards of different batches."},
	{ReplicaSkipStaged, "replica/skip-staged", "A member whose shard is rebuilt does not get what is only in the log of the others."},
	{ReplicaPreparedVolatile, "replica/prepared-volatile", "What a shard finds prepared after a restart is taken for durable."},
	{ReplicaMendNever, "replica/mend-never", "A bad block of a shard stays bad."},
	{ReplicaMendBlind, "replica/mend-blind", "What a shard is mended with is taken from that shard, too."},
	{ReplicaGrowUnpoured, "replica/grow-unpoured", "A shard comes to count without a batch whose decision is in the log."},
	{ReplicaAnswerEmptied, "replica/answer-emptied", "A member answers with what was emptied since it was asked."},
	{ReplicaCompareMixed, "replica/compare-mixed", "Shards of different batches are compared."},
	{ReplicaMapPoured, "replica/map-poured", "What is data is told by the shards alone, without the log."},
	{ReplicaCopyOther, "replica/copy-other", "Pieces of a shard that is copied are taken of whatever batch they are."},
	{ReplicaChangesAny, "replica/changes-any", "What a shard lacks is told from the oldest batch that is known, whatever batch it has."},
	{ReplicaChangesFew, "replica/changes-few", "What a shard lacks is told by fewer than k others."},
	{ReplicaKeepOther, "replica/keep-other", "A node that takes another shard keeps the content of the one that it had."},
	{ReplicaPreparedHeld, "replica/prepared-held", "A shard answers that it has stored its part of a batch before that is durable."},
	{ReplicaCurrentVolatile, "replica/current-volatile", "A batch becomes current before its decision is durable in the log of the same member."},
	{ReplicaChainAny, "replica/chain-any", "A shard stores a batch behind whatever it has, not behind the one that it follows."},
	{ReplicaDecideGivenUp, "replica/decide-given-up", "A large write that was given up, and went into the log, is decided later."},
	{ReplicaShowSuperseded, "replica/show-superseded", "What the log has of a range stays when a large write has superseded it."},
	{ReplicaPourWritten, "replica/pour-written", "A pour takes rows of large writes along that were undecided when it began."},
	{ReplicaPourAhead, "replica/pour-ahead", "A pour claims what was committed after it began."},
	{ReplicaFenceLarge, "replica/fence-large", "A large write is decided after its session has ended."},
	{ReplicaPreparedStale, "replica/prepared-stale", "Who is to be copied goes on to answer that it has stored its part of a batch."},
	{ReplicaRepeat, "replica/repeat", "What a client sends again acts again."},
	{ReplicaRepeatEarly, "replica/repeat-early", "What a client sends again is answered before it is committed."},
	{ReplicaRepeatWhole, "replica/repeat-whole", "What was done in part is done again from its beginning."},
	{ReplicaBegunDone, "replica/begun-done", "What was done in part counts as done."},
	{ReplicaForgetSessions, "replica/forget-sessions", "A promoted member does not look into its log for what clients have done."},
	{ReplicaForgetTail, "replica/forget-tail", "A promoted member looks only into what was committed for what clients have done."},
	{ReplicaResetSessions, "replica/reset-sessions", "A replica that is copied is not told what clients have done."},
	{ReplicaEmptyLog, "replica/empty-log", "The empty store of a node that was replaced counts as the log of its member."},
	{ReplicaAckStale, "replica/ack-stale", "Who is to be copied goes on to acknowledge the log that it had before."},
	{QuorumStaleRead, "quorum/stale-read", "A read is served without asking the leader."},
}

// All lists the planted bugs.
func All() []Info { return table[:] }

// String is the bug's name.
func (id ID) String() string {
	if id < numIDs {
		return table[id].Name
	}
	return fmt.Sprintf("mutant(%d)", uint8(id))
}

// Parse is the inverse of String.
func Parse(name string) (ID, error) {
	for _, info := range table {
		if info.Name == name {
			return info.ID, nil
		}
	}
	return 0, fmt.Errorf("no planted bug is called %q; the names are in internal/mutant/mutant.go", name)
}
