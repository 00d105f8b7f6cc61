#!/usr/bin/env bash
# bench-nbd.sh: blkd beside qemu-nbd and nbdkit, each serving a disk of the same size
# from the same file system over TCP, under the same fio jobs, in turns.
#
#   deploy/test/bench-nbd.sh                 uses bin/blkd and bin/blkctl (make build)
#   SIZE=4096 ROUNDS=9 deploy/test/bench-nbd.sh --job 'rand*-qd32'
#
# SIZE is in MiB and should fit into memory several times. DIR is where the disks lie
# (default: out/, which is on the checkout's file system). Arguments go to blkctl bench.
# The page with plots is out/bench-nbd.html.
#
# All three acknowledge a write from memory and make it durable on flush. Every disk is
# filled with random data first, so that none serves holes.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "${DIR:=$root/out}"
TMPDIR=$DIR
source "$here/lib.sh"

: "${BLKD:=$root/bin/blkd}" "${BLKCTL:=$root/bin/blkctl}" "${SIZE:=1024}" "${ROUNDS:=5}"
for tool in fio nbdkit nbdcopy nbdinfo qemu-nbd "$BLKD" "$BLKCTL"; do
	command -v "$tool" >/dev/null || { say "bench-nbd: $tool is missing (make deps, make build)" >&2; exit 1; }
done

# serve NAME COMMAND…: start a server and wait until it answers on $port.
serve() {
	local name=$1
	shift
	"$@" >"$work/$name.log" 2>&1 </dev/null &
	echo $! >"$work/$name.pid"
	for _ in $(seq 100); do
		nbdinfo --size "nbd://127.0.0.1:$port/$name" >/dev/null 2>&1 && return
		sleep 0.1
	done
	say "bench-nbd: $name does not answer:" >&2
	tail -n 5 "$work/$name.log" >&2
	exit 1
}

targets=()
# add NAME: fill the disk that serves on $port and measure it with the others.
add() {
	say "filling $1 ($SIZE MiB)"
	nbdcopy --flush "$work/random" "nbd://127.0.0.1:$port/$1"
	targets+=("$1=nbd://127.0.0.1:$port/$1")
}

head -c "${SIZE}M" /dev/urandom >"$work/random"

port=$(free_port)
truncate -s "${SIZE}M" "$work/qemu.img"
serve qemu-nbd qemu-nbd -t -f raw -x qemu-nbd -b 127.0.0.1 -p "$port" -e 16 --cache=writeback --discard=unmap "$work/qemu.img"
add qemu-nbd

port=$(free_port)
truncate -s "${SIZE}M" "$work/nbdkit.img"
serve nbdkit nbdkit -f -i 127.0.0.1 -p "$port" file "$work/nbdkit.img"
add nbdkit

port=$(free_port)
mkdir -p "$work/blkd"
serve blkd "$BLKD" --standalone --data-dir "$work/blkd" --volume "blkd=${SIZE}MiB" --nbd "127.0.0.1:$port"
add blkd

rm "$work/random"
sync
"$BLKCTL" bench --overwrite --rounds "$ROUNDS" --html "$root/out/bench-nbd.html" "$@" "${targets[@]}"
say "plots: out/bench-nbd.html"
