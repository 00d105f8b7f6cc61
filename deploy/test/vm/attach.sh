#!/bin/bash
# attach.sh - kernel clients against a cluster, in a real kernel: see attach-guest.sh and takeover-guest.sh.
#   attach.sh [--fs ext4|xfs] [--faults "kill promote stop restart agent agent-kill"] [--kernel PACKAGE]
#   attach.sh --script takeover-guest.sh --guests 2
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
fs=ext4 faults="kill promote stop restart agent agent-kill" kernel=linux-image-amd64 script=attach-guest.sh guests=1
while [ $# -gt 0 ]; do case $1 in
  --fs) fs=$2; shift 2;;  --faults) faults=$2; shift 2;;  --kernel) kernel=$2; shift 2;;  --script) script=$2; shift 2;;
  --guests) guests=$2; shift 2;;
  *) echo "attach.sh: unknown argument $1" >&2; exit 2;;
esac; done
export CLUSTER_PORT=${CLUSTER_PORT:-12600} CLUSTER_BIN=$root/bin
CLUSTER_DIR=$(mktemp -d "${TMPDIR:-/tmp}/blkd-vm.XXXXXX"); export CLUSTER_DIR
CGO_ENABLED=0 go build -C "$root" -o "$CLUSTER_DIR/iogap" ./deploy/test/vm/iogap
trap 'rc=$?; "$here/cluster.sh" exit; [ $rc = 0 ] || tail -n 15 "$CLUSTER_DIR"/n?.log; rm -rf "$CLUSTER_DIR"' EXIT
"$here/cluster.sh" up
"$here/cluster.sh" blkctl volume create pg ${SIZE:-400MiB} --layout "mirror 3" -o name
"$here/cluster.sh" blkctl wait pg --for=uptodate --timeout 60s
at=$(for n in 1 2 3; do printf '10.0.2.2:%s,' $((CLUSTER_PORT + n)); done)
"$here/run.sh" ${QUIET--q} --kernel "$kernel" --script "$here/$script" --hook "$here/cluster.sh" --files "$root/bin/blkctl,$CLUSTER_DIR/iogap" --tools fio \
  --nodes "$guests" --mem 600 --timeout "${TIMEOUT:-400}" --env FS="$fs" --env FAULTS="$faults" --env NODES_AT="${at%,}"
