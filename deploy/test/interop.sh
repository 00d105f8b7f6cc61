#!/usr/bin/env bash
# interop.sh: the programs that people use with NBD, run against blkd --standalone.
#
#   deploy/test/interop.sh              builds blkd and runs every step
#   BLKD=./blkd deploy/test/interop.sh  tests that binary
#   KILLS=50 deploy/test/interop.sh     more rounds of kill -9 (default 5)
#
# What is missing is skipped, by name. The tools, all of Debian: libnbd-bin
# python3-libnbd qemu-utils fio e2fsprogs nbd-client, and for nbd's own test client gcc
# pkg-config libglib2.0-dev libgnutls28-dev dpkg-dev.
#
# shellcheck disable=SC2034 # demo_size and others are read by lib.sh
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

MiB=$((1 << 20))
demo_size=256MiB demo_bytes=$((256 * MiB))
zero_size=64MiB zero_bytes=$((64 * MiB))
port=$(free_port)
socket=$work/nbd.sock

sum() { sha256sum "$1" | cut -d' ' -f1; }

# make_input: a file of the volume's size with data, holes, and data at both ends.
make_input() {
	truncate -s "$demo_bytes" "$work/in"
	dd if=/dev/urandom of="$work/in" bs=1M count=40 conv=notrunc status=none
	dd if=/dev/urandom of="$work/in" bs=1M count=8 seek=100 conv=notrunc status=none
	dd if=/dev/urandom of="$work/in" bs=1k count=333 seek=$((256 * 1024 - 333)) conv=notrunc status=none
}

nbdinfo_text() {
	local out
	out=$(limited nbdinfo "$(uri_tcp demo)")
	echo "$out"
	for want in "newstyle-fixed" "structured" "export-size: $demo_bytes" "base:allocation" "can_flush: true" "can_fua: true" \
		"can_multi_conn: true" "can_trim: true" "can_zero: true" "can_fast_zero: true" "can_cache: true" "can_df: true" \
		"is_read_only: false" "block_size_maximum: 33554432"; do
		grep -qF "$want" <<<"$out" || fail "nbdinfo does not say \"$want\""
	done
}

nbdinfo_json() {
	local out
	out=$(limited nbdinfo --json "$(uri_unix demo)")
	echo "$out"
	grep -q "\"export-size\": $demo_bytes" <<<"$out"
	grep -q '"can_fua": true' <<<"$out"
	grep -q '"block_size_preferred": 4096' <<<"$out"
}

nbdinfo_list() {
	local out
	out=$(limited nbdinfo --list "nbd://127.0.0.1:$port")
	echo "$out"
	[ "$(grep -c '^export="' <<<"$out")" = 2 ] || fail "--list does not show two exports"
	grep -q 'export="demo"' <<<"$out"
	grep -q 'export="zero"' <<<"$out"
}

unknown_export() {
	local out
	if out=$(limited nbdinfo "$(uri_tcp nothere)" 2>&1); then
		fail "an export that does not exist is served"
	fi
	echo "$out"
	grep -qi 'nothere\|unknown' <<<"$out" || fail "the error does not name the export: $out"
}

nbd_client_list() {
	need nbd-client nbd-client
	local out
	out=$(limited nbd-client -l 127.0.0.1 "$port")
	echo "$out"
	grep -qx demo <<<"$out"
	grep -qx zero <<<"$out"
}

# round_trip URI: copy a file in and out again; both must be equal.
round_trip() {
	make_input
	limited nbdcopy --flush "$work/in" "$1"
	limited nbdcopy "$1" "$work/out"
	[ "$(sum "$work/in")" = "$(sum "$work/out")" ] || fail "SHA-256 differs"
	rm "$work/out"
}

nbdinfo_map() {
	local out covered
	out=$(limited nbdinfo --map "$(uri_unix demo)")
	echo "$out"
	covered=$(awk '{ if ($1 != at) bad = 1; at = $1 + $2 } END { print bad ? "gap" : at }' <<<"$out")
	[ "$covered" = "$demo_bytes" ] || fail "the map covers $covered, not $demo_bytes"
	awk '$3 == 3' <<<"$out" | has hole || fail "no hole in the map of a sparse volume"
	awk '$3 == 0' <<<"$out" | has data || fail "no data in the map"
	out=$(limited nbdinfo --map --totals "$(uri_unix demo)")
	echo "$out"
	# 48 MiB and 333 KiB of data were written.
	awk '$3 == 0 { ok = $1 >= 48*1048576 && $1 < 64*1048576 } END { exit !ok }' <<<"$out" || fail "the map shows another amount of data"
}

qemu_img_convert() {
	need qemu-img qemu-utils
	make_input
	limited qemu-img convert -n -f raw -O raw "$work/in" "$(uri_tcp demo)"
	limited qemu-img compare -f raw -F raw "$work/in" "$(uri_unix demo)"
	limited qemu-img convert -f raw -O qcow2 "$(uri_unix demo)" "$work/copy.qcow2"
	limited qemu-img compare -f raw -F qcow2 "$(uri_tcp demo)" "$work/copy.qcow2"
	# A pipelined, out-of-order copy.
	limited qemu-img convert -n -W -m 16 -f qcow2 -O raw "$work/copy.qcow2" "$(uri_tcp demo)"
	limited qemu-img compare -f raw -F raw "$work/in" "$(uri_tcp demo)"
	rm "$work/copy.qcow2"
}

qemu_img_map() {
	need qemu-img qemu-utils
	local out
	out=$(limited qemu-img map --output=json -f raw "$(uri_unix demo)")
	echo "$out"
	grep -q '"zero": true' <<<"$out"
	grep -q '"zero": false, "data": true' <<<"$out"
	limited qemu-img info -f raw "$(uri_unix demo)" | has "virtual size: 256 MiB"
}

# qio COMMANDS…: run qemu-io commands; it reports a wrong pattern on its output.
qio() {
	local args=() out
	for c in "$@"; do args+=(-c "$c"); done
	out=$(limited qemu-io -f raw -d unmap "${args[@]}" "$(uri_tcp demo)" 2>&1) || fail "qemu-io: $out"
	echo "$out"
	if grep -qiE 'failed|error|pattern verification|verification failed' <<<"$out"; then
		fail "qemu-io: $(grep -iE -m1 'failed|error|verification' <<<"$out")"
	fi
}

qemu_io_fua() {
	need qemu-io qemu-utils
	qio "write -f -P 0x5a 1M 64k" "write -f -P 0x5b 1048577 511" "read -P 0x5b 1048577 511" "read -P 0x5a 1049088 65024" "flush"
}

qemu_io_discard() {
	need qemu-io qemu-utils
	qio "write -P 0x11 8M 4M" "flush" "discard 9M 1M" "read -P 0x11 8M 1M" "read -P 0 9M 1M" "read -P 0x11 10M 2M"
	limited nbdinfo --map "$(uri_unix demo)" | awk '$1 <= 9*1048576 && $1+$2 >= 10*1048576 && $3 == 3 { found = 1 } END { exit !found }' ||
		fail "the discarded range is no hole"
}

qemu_io_zero() {
	need qemu-io qemu-utils
	qio "write -P 0x22 16M 4M" "write -z 17M 1M" "write -z -u 18M 1M" "write -z -f 16777217 511" \
		"read -P 0x22 16777216 1" "read -P 0 16777217 511" "read -P 0x22 16777728 1048064" "read -P 0 17M 2M" "read -P 0x22 19M 1M"
	# Zeroed without -u must stay allocated (NO_HOLE), with -u may become a hole.
	limited nbdinfo --map "$(uri_unix demo)" | awk '$1 <= 17*1048576 && $1+$2 > 17*1048576 && $3 == 3 { exit 1 }' ||
		fail "zeroing without unmap made a hole"
}

fio_verify() {
	need fio fio
	local out
	cd "$work" # fio leaves files behind
	out=$(URI=$(uri_tcp demo) limited fio "$here/../../fio/verify-crc32c.fio" 2>&1) || fail "fio: $(tail -n 1 <<<"$out")"
	grep -q 'err= 0' <<<"$out" || fail "fio did not report success"
	out=$(limited fio --name=v --ioengine=nbd --uri="$(uri_unix demo)" --rw=randwrite --bsrange=512-256k \
		--bs_unaligned=1 --blockalign=512 --iodepth=16 --size=64m --offset=128m --verify=crc32c --verify_fatal=1 --verify_state_save=0 2>&1) ||
		fail "fio, odd sizes: $(tail -n 1 <<<"$out")"
}

# find_nbdsh: sets nbdsh to libnbd's Python shell. The first python3 in PATH need not be
# the one that the distribution's module belongs to.
find_nbdsh() {
	local python
	for python in python3 /usr/bin/python3; do
		if "$python" -m nbd -c pass >/dev/null 2>&1; then
			nbdsh=("$python" -m nbd)
			return
		fi
	done
	skip "libnbd's Python module is not installed (apt-get install python3-libnbd)"
}

# nbdsh_errors shows what the other programs do not: error numbers, flags, structured reads.
nbdsh_errors() {
	find_nbdsh
	limited "${nbdsh[@]}" --base-allocation -u "$(uri_tcp demo)" -c "$(cat "$here/interop_errors.py")"
}

nbd_tester() {
	local tester
	tester=$("$here/nbd_tester.sh" 2>"$work/why") || { [ $? = 77 ] && exit 77; exit 1; }
	rm -f "$work/why"
	local t="limited $tester 127.0.0.1 $port -N"
	$t demo -h >"$work/tester.log" 2>&1 || fail "-h (handshake): $(tail -n 1 "$work/tester.log")"
	$t demo -o >"$work/tester.log" 2>&1 || fail "-o (oversized requests): $(tail -n 1 "$work/tester.log")"
	$t demo >"$work/tester.log" 2>&1 || fail "throughput, reading: $(tail -n 1 "$work/tester.log")"
	$t demo -w -f >"$work/tester.log" 2>&1 || fail "-w -f (writes with flushes): $(tail -n 1 "$work/tester.log")"
	# The trace expects an export that reads as zeros.
	need qemu-io qemu-utils
	limited qemu-io -f raw -c "write -z 0 $zero_bytes" "$(uri_tcp zero)"
	$t zero -i -t "$(dirname "$tester")/integrity-test.tr" >"$work/tester.log" 2>&1 ||
		fail "-i (integrity): $(tail -n 1 "$work/tester.log")"
}

# file_system: nbdfuse makes a file of the export, a loop device a disk of the file.
file_system() {
	need nbdfuse libnbd-bin
	need mkfs.ext4 e2fsprogs
	[ "$(id -u)" = 0 ] || skip "needs root"
	[ -w /dev/fuse ] || skip "/dev/fuse cannot be used"
	losetup -f >/dev/null 2>&1 || skip "no loop device can be had"
	mkdir -p "$work/fuse" "$work/mnt"
	nbdfuse "$work/fuse/disk" "$(uri_unix zero)" &
	echo $! >"$work/nbdfuse.pid"
	for _ in $(seq 50); do
		[ -e "$work/fuse/disk" ] && break
		sleep 0.1
	done
	[ -e "$work/fuse/disk" ] || skip "nbdfuse could not mount here"
	local loop
	loop=$(losetup -f --show "$work/fuse/disk" | tee "$work/loop") || skip "no loop device can be attached here"
	limited mkfs.ext4 -q -F "$loop"
	mount "$loop" "$work/mnt"
	limited dd if=/dev/urandom of="$work/mnt/file" bs=1M count=24 conv=fsync status=none
	for i in $(seq 200); do echo "$i" >"$work/mnt/small.$i"; done
	rm "$work"/mnt/small.*[02468]
	limited sync -f "$work/mnt/file"
	local before
	before=$(sum "$work/mnt/file")
	limited fstrim "$work/mnt" || say "fstrim is not supported here"
	umount "$work/mnt"
	limited e2fsck -fn "$loop"
	mount "$loop" "$work/mnt"
	[ "$(sum "$work/mnt/file")" = "$before" ] || fail "the file changed"
	[ "$(find "$work/mnt" -name 'small.*' | wc -l)" = 100 ] || fail "small files are missing"
	umount "$work/mnt"
	losetup -d "$loop"
	rm "$work/loop"
	fusermount3 -u "$work/fuse"
	end_process "$(cat "$work/nbdfuse.pid")"
	rm "$work/nbdfuse.pid"
}

write_volume() {
	make_input
	limited nbdcopy --flush "$work/in" "$(uri_tcp demo)"
}

compare_volume() {
	limited nbdcopy "$(uri_tcp demo)" "$work/out"
	[ "$(sum "$work/in")" = "$(sum "$work/out")" ] || fail "SHA-256 differs"
	rm "$work/out"
}

# restart SIGNAL: end the server and start it again. Not a step: a step runs in a
# subshell, and the server must belong to this shell.
restart() {
	stop_code=0
	stop_server "$1" || stop_code=$?
	start_code=0
	start_server 2>"$work/start.err" || start_code=$?
}

stopped_with() { [ "$stop_code" = "$1" ] || fail "exit code $stop_code, want $1"; }
started() { [ "$start_code" = 0 ] || fail "$(cat "$work/start.err")"; }

kill_loop() { "$here/killloop.sh" "${KILLS:-5}"; }

nothing_left() {
	local p
	for p in /proc/[0-9]*; do
		if [ "${p#/proc/}" != $$ ] && [ "${p#/proc/}" != "$BASHPID" ] && tr '\0' ' ' <"$p/cmdline" 2>/dev/null | has -F "$work/"; then
			fail "still running: $(tr '\0' ' ' <"$p/cmdline")"
		fi
	done
	! grep -F "$work/" /proc/mounts || fail "still mounted"
	[ ! -e "$work/loop" ] || fail "$(cat "$work/loop") is still attached"
}

build_blkd
command -v nbdinfo >/dev/null || { say "FAIL tools: nbdinfo is not installed (apt-get install libnbd-bin)"; exit 1; }
if ! start_server; then
	say "FAIL start: the server did not start"
	failed=1
	finish
fi

run nbdinfo nbdinfo_text
run nbdinfo-json nbdinfo_json
run nbdinfo-list nbdinfo_list
run unknown-export unknown_export
run nbd-client-list nbd_client_list
run nbdcopy-tcp round_trip "$(uri_tcp demo)"
run nbdcopy-unix round_trip "$(uri_unix demo)"
run nbdinfo-map nbdinfo_map
run qemu-img-convert qemu_img_convert
run qemu-img-map qemu_img_map
run qemu-io-fua qemu_io_fua
run qemu-io-discard qemu_io_discard
run qemu-io-zero qemu_io_zero
run fio-verify fio_verify
run nbdsh-errors nbdsh_errors
run nbd-tester-client nbd_tester
run ext4-on-loop file_system

run write-volume write_volume
restart TERM
run stop-on-sigterm stopped_with 0
run start-again started
run compare-after-stop compare_volume
restart KILL
run start-after-kill started
run compare-after-kill compare_volume
run kill-9-loop kill_loop

stop_server TERM || true
undo_mounts
run nothing-left-behind nothing_left
finish
