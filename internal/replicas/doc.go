// Package replicas keeps this node's replicas of the cluster's volumes as the
// metadata quorum records them: it makes and opens their stores, connects them
// with those of other nodes, tells each [replication.Volume] what the quorum has
// decided and the quorum what it asks for, and says which volumes this node serves.
//
// A replica lies in a directory of its own, named after the volume and its number,
// which is never used again:
//
//	DIR/pgdata.7/store/    the blockdev.Store
//	DIR/pgdata.7/promise   the fencing.Gate: the highest generation promised
//
// What a forced promotion has left is moved away, to a directory of branches, where
// it is only read until somebody drops it:
//
//	BRANCHES/pgdata@17.7   the blockdev.Store; 17: the generation promised
//
// It goes through these states; a failed one is given up until the next start of
// the node, because nobody knows what is on its disk:
//
//	recorded ──► open ──► serving (where it is Primary)
//	   │          │ ▲────────┘
//	   │          ├──► failed
//	   ▼          ▼
//	  gone: the volume was deleted, or this node is no member any more
package replicas
