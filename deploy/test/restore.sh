#!/usr/bin/env bash
# restore.sh: docs/manual/restore.md, "When every replica is empty", step by step, on three
# blkd of this machine's loopback. bin/blkd and bin/blkctl must have been built. Needs
# qemu-utils.
#
#   deploy/test/restore.sh
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
# shellcheck source=lib.sh
source deploy/test/lib.sh

export CLUSTER_DIR=$work/nodes CLUSTER_PORT=${CLUSTER_PORT:-12700} CLUSTER_BIN=$PWD/bin
cluster() { deploy/test/vm/cluster.sh "$@"; }
blkctl() { cluster blkctl "$@"; }
trap 'cluster exit; cleanup' EXIT

# io COMMAND…: of qemu-io, with the volume, through n1.
io() { qemu-io -f raw -c "$*" "nbd://127.0.0.1:$((CLUSTER_PORT + 4))/only"; }
written() {
	io 'write -P 7 1M 64k'
	io flush
}
there() { io 'read -P 7 1M 64k'; }

# replaced: the only node of a volume is replaced, and begins with an empty disk.
replaced() {
	cluster node kill 3
	mv "$CLUSTER_DIR/n3" "$work/n3.old"
	mkdir "$CLUSTER_DIR/n3"
	blkctl node replace n3 --reason test
	cluster node start 3
	eventually says_why
}
says_why() { blkctl why only | has 'none of its logs is whole'; }

waits() {
	cluster up
	blkctl volume create only 64MiB --layout "mirror 1" --on n3
	written
	there
	blkctl cluster snapshot save "$work/snapshot"
	replaced
	blkctl why only | has 'docs/manual/restore.md' || fail "$(blkctl why only)"
	local rc=0
	timeout 5 qemu-io -r -f raw -c 'read 0 4k' "nbd://127.0.0.1:$((CLUSTER_PORT + 4))/only" || rc=$?
	[ $rc = 124 ] || fail "a read of a volume that has lost its data ends with $rc"
}

# brought_back: the old data directory has the data, in a new cluster from the snapshot.
brought_back() {
	local n rc=0
	for n in 1 2 3; do cluster node term $n; done
	cluster blkctl cluster snapshot restore "$work/snapshot" --data-dir "$CLUSTER_DIR/n1" || rc=$?
	[ $rc = 6 ] || fail "a snapshot is restored over records: $rc"
	rm -r "$CLUSTER_DIR/n3"
	mv "$work/n3.old" "$CLUSTER_DIR/n3"
	for n in 1 2 3; do
		mv "$CLUSTER_DIR/n$n/metadata" "$CLUSTER_DIR/n$n/metadata.old"
		blkctl cluster snapshot restore "$work/snapshot" --data-dir "$CLUSTER_DIR/n$n"
	done
	cluster up
	blkctl wait only --for=uptodate --timeout 1m
	there || fail "the data are not there"
	written
}

# made_anew: nothing is left; the volume is deleted and made again.
made_anew() {
	replaced
	blkctl volume delete only --yes
	blkctl volume create only 64MiB --layout "mirror 1" --on n3
	! there || fail "the data of before are in a new volume"
	written
	there
}

if ! command -v qemu-io >/dev/null; then
	say "skip: qemu-io is not installed (apt-get install qemu-utils)"
	exit 0
fi
# step NAME FUNCTION: each needs what the one before has left.
step() { [ "$failed" -gt 0 ] || run "$@"; }
step "a volume whose every replica is empty waits, and says why" waits
step "an old data directory brings it back, in a cluster from a snapshot" brought_back
step "it is deleted and made anew" made_anew
finish
