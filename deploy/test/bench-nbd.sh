#!/usr/bin/env bash
# bench-nbd.sh: blkd beside qemu-nbd and nbdkit, and clusters of it beside one node, in
# turns; prints tables, and which of the project's targets hold. See benchnbd/main.go.
#
#   deploy/test/bench-nbd.sh                                  about 40 minutes
#   ROUNDS=3 deploy/test/bench-nbd.sh -only disk -transports tcp
#   SIZE=4096 DIR=/mnt/disk BLKD=./blkd deploy/test/bench-nbd.sh
#
# PEERS=ceph measures two copies beside Ceph RBD, too, if its packages are installed.
# SIZE is that of each disk in MiB and should fit into memory several times. DIR is where
# the disks lie (default: out/, which is on the checkout's file system). Pages with plots
# and JSON go to out/. Arguments go to benchnbd.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
source "$here/lib.sh"

mkdir -p "${DIR:=$root/out}"
build_blkd
(cd "$root" && CGO_ENABLED=0 go build -o "$work/" ./deploy/test/benchnbd ./deploy/test/memserver)
"$work/benchnbd" -blkd "$BLKD" -memserver "$work/memserver" -dir "$DIR" -out "$root/out" \
	${PEERS:+-with "$PEERS"} -size "${SIZE:-1024}" -rounds "${ROUNDS:-5}" -runtime "${RUNTIME:-2s}" "$@"
