#!/bin/bash
# attach.sh - kernel clients against a cluster, in a real kernel: boots guests that run a script of this directory, and a cluster for them.
#   attach.sh [--script attach-guest.sh] [--env NAME=VALUE]... [--guests N] [--tools T,...] [--mem MB] [--size SIZE] [--kernel PACKAGE] [--mutant BUG]
#             [--disk-from N]
# --env is for the script, which says what it wants; --mutant plants a bug of internal/mutant in the nodes: the script must then find DAMAGE.
# --disk-from makes the volume the disk /dev/vda of the guest, with the lab's system on it, by the NBD client of QEMU, from node N; the script runs twice.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
kernel=linux-image-amd64 script=attach-guest.sh guests=1 tools=fio mem=600 size=400MiB mutant= disk_from= timeout=${TIMEOUT:-600} options=()
while [ $# -gt 0 ]; do case $1 in
  --script) script=$2;;  --env) options+=(--env "$2");;  --guests) guests=$2;;  --tools) tools=$2;;  --mem) mem=$2;;
  --size) size=$2;;  --kernel) kernel=$2;;  --mutant) mutant=$2;;
  --disk-from) disk_from=$2;;
  *) echo "attach.sh: unknown argument $1" >&2; exit 2;;
esac; shift 2; done
export CLUSTER_PORT=${CLUSTER_PORT:-12600} CLUSTER_BIN=$root/bin
CLUSTER_DIR=$(mktemp -d "${TMPDIR:-/tmp}/blkd-vm.XXXXXX"); export CLUSTER_DIR
export CGO_ENABLED=0
go build -C "$root" -o "$CLUSTER_DIR/iogap" ./deploy/test/vm/iogap
if [ "$mutant" ]; then
  export MUTANT=$mutant CLUSTER_BIN=$CLUSTER_DIR
  go build -C "$root" -tags mutants -o "$CLUSTER_DIR/" ./cmd/blkd ./cmd/blkctl
fi
trap 'rc=$?; "$here/cluster.sh" exit; [ $rc = 0 ] || tail -n 15 "$CLUSTER_DIR"/n?.log; rm -rf "$CLUSTER_DIR"' EXIT
"$here/cluster.sh" up
"$here/cluster.sh" blkctl volume create pg "$size" --layout "mirror 3" -o name
"$here/cluster.sh" blkctl wait pg --for=uptodate --timeout 60s
at=$(for n in 1 2 3; do printf '10.0.2.2:%s,' $((CLUSTER_PORT + n)); done)
if [ "$disk_from" ]; then
  disk=nbd://127.0.0.1:$((CLUSTER_PORT + 3 + disk_from))/pg
  base=$("$here/build.sh" --kernel "$kernel" 2>/dev/null)/base.cpio
  mkdir "$CLUSTER_DIR/system"; (cd "$CLUSTER_DIR/system" && busybox cpio -idm <"$base" 2>/dev/null)
  mkfs.ext4 -q -d "$CLUSTER_DIR/system" "$CLUSTER_DIR/disk" 300M >/dev/null
  qemu-img convert -n -f raw -O raw "$CLUSTER_DIR/disk" "$disk"
  options+=(--env GATEWAY="$disk_from" --qemu "-drive if=virtio,format=raw,file=$disk,file.reconnect-delay=60")
fi
guests() {
  "$here/run.sh" ${QUIET--q} --kernel "$kernel" --script "$here/$script" --hook "$here/cluster.sh" \
    --files "$root/bin/blkctl,$CLUSTER_DIR/iogap,$here/guest.sh,$here/postgres.sh,$root/deploy/udev/60-blkd.rules,$root/deploy/ocf/attach:/usr/lib/ocf/resource.d/blkd/attach" --tools "$tools" \
    --nodes "$guests" --mem "$mem" --timeout "$timeout" --env TELL=$((timeout - 30)) "${options[@]}" --env NODES_AT="${at%,}" "$@"
}
if [ "$disk_from" ]; then
  guests --env ROUND=1 # at its end all nodes are killed
  "$here/cluster.sh" up; "$here/cluster.sh" blkctl wait pg --for=uptodate --timeout 60s
  guests --env ROUND=2; exit
fi
[ "$mutant" ] || { guests; exit; }
guests >"$CLUSTER_DIR/out" 2>&1 && { cat "$CLUSTER_DIR/out"; echo "attach.sh: nothing has noticed $mutant"; exit 1; }
grep -h 'DAMAGE' "$CLUSTER_DIR/out" || { cat "$CLUSTER_DIR/out"; echo "attach.sh: the test failed, but not because of $mutant"; exit 1; }
echo "PASS $mutant is found"
