# shellcheck shell=bash
# lib.sh: what the test scripts of this folder share. Source it.
#
# A script defines steps as functions and runs each with "run NAME FUNCTION". A step
# runs in a subshell with errexit; it passes when it returns 0 and is skipped when it
# calls skip. Each step prints one line, "ok NAME", "FAIL NAME: why" or "skip NAME: why".
# The script ends with "finish".
#
# Everything that a script starts is ended when it exits, however it exits: processes by
# their ids, mounts and loop devices by their paths, then the work directory.

set -euo pipefail
umask 022

passed=0 failed=0 skipped=0
work=$(mktemp -d "${TMPDIR:-/tmp}/blkd-test.XXXXXX")
server_pid=
keep_log=${KEEP_LOG:-}

say() { printf '%s\n' "$*"; }

# skip WHY: end a step that cannot run here.
skip() {
	echo "$*" >"$work/why"
	exit 77
}

# fail WHY: end a step that found something wrong.
fail() {
	echo "$*" >"$work/why"
	exit 1
}

# has OPTIONS… PATTERN: tell whether a line of the input matches, as grep -q does. But that
# stops reading, and who still writes to the pipe fails.
has() { grep "$@" >/dev/null; }

# eventually COMMAND…: for as long as two minutes. A script may define what shows, when
# that fails, what is the matter: diagnose.
diagnose() { :; }
eventually() {
	local end=$((SECONDS + 120))
	while [ $SECONDS -lt $end ]; do
		if "$@"; then return; fi
		sleep 0.1
	done
	diagnose || true
	fail "after two minutes still not: $*"
}

# need PROGRAM PACKAGE: skip the step if a program is missing.
need() { command -v "$1" >/dev/null || skip "$1 is not installed (apt-get install $2)"; }

# limited COMMAND…: run a command for at most three minutes.
limited() { timeout -k 5 180 "$@"; }

# run NAME FUNCTION ARGS…: run one step and print how it went.
run() {
	local name=$1 rc
	shift
	rm -f "$work/why"
	set +e
	(
		set -e
		"$@"
	) >"$work/step.log" 2>&1 </dev/null
	rc=$?
	set -e
	case $rc in
	0)
		passed=$((passed + 1))
		say "ok $name"
		;;
	77)
		skipped=$((skipped + 1))
		say "skip $name: $(cat "$work/why" 2>/dev/null)"
		;;
	*)
		failed=$((failed + 1))
		say "FAIL $name: $(cat "$work/why" 2>/dev/null || echo "exit code $rc: $(tail -n 1 "$work/step.log")")"
		sed 's/^/    /' "$work/step.log" | tr '\r' '\n' | tail -n 20
		;;
	esac
}

# finish: print the sum and exit with 1 if a step failed.
finish() {
	if [ "$failed" -gt 0 ] && [ -s "$work/server.log" ]; then
		say "last lines of the server's log:"
		tail -n 30 "$work/server.log" | sed 's/^/    /'
	fi
	say "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ]
}

# build_blkd: sets BLKD to a binary, unless the caller did.
build_blkd() {
	if [ -z "${BLKD:-}" ]; then
		BLKD=$work/blkd
		(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && CGO_ENABLED=0 go build -o "$BLKD" ./cmd/blkd)
	fi
}

# free_port: print a TCP port that nobody listens on.
free_port() {
	local port
	for _ in $(seq 50); do
		port=$((20000 + RANDOM % 12000))
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	say "no free TCP port found" >&2
	return 1
}

# start_server: run blkd with the volumes demo and zero; waits until it serves.
start_server() {
	mkdir -p "$work/data"
	"$BLKD" --standalone --data-dir "$work/data" --volume "demo=$demo_size" --volume "zero=$zero_size" \
		--nbd "127.0.0.1:$port" --nbd "unix:$socket" >>"$work/server.log" 2>&1 </dev/null &
	server_pid=$!
	for _ in $(seq 300); do
		if ! kill -0 "$server_pid" 2>/dev/null; then
			server_pid=
			say "the server ended: $(tail -n 1 "$work/server.log")" >&2
			return 1
		fi
		if nbdinfo --size "$(uri_unix demo)" >/dev/null 2>&1; then
			return 0
		fi
		sleep 0.1
	done
	say "the server does not answer after 30 s" >&2
	return 1
}

# start_dev: a cluster of three nodes in $work/dev, with the volume demo; sets BLKCTL_NODE
# to their addresses.
start_dev() {
	: >"$work/dev.log"
	bin/blkctl dev --dir "$work/dev" >"$work/dev.log" 2>&1 &
	echo $! >"$work/dev.pid"
	for _ in $(seq 600); do
		if grep -q BLKCTL_NODE "$work/dev.log"; then
			BLKCTL_NODE=$(sed -n 's/.*BLKCTL_NODE=//p' "$work/dev.log")
			return
		fi
		kill -0 "$(cat "$work/dev.pid")" || return
		sleep 0.1
	done
	return 1
}

# stop_server SIGNAL: end the server and wait; returns its exit code.
stop_server() {
	local pid=$server_pid
	server_pid=
	[ -n "$pid" ] || return 0
	kill -s "$1" "$pid"
	{ wait "$pid"; } 2>/dev/null # the shell would announce that it was killed
}

uri_tcp() { echo "nbd://127.0.0.1:$port/$1"; }
uri_unix() { echo "nbd+unix:///$1?socket=$socket"; }

# end_process PID: end a process that this script started; SIGKILL after 10 s.
end_process() {
	kill "$1" 2>/dev/null || return 0
	for _ in $(seq 100); do
		kill -0 "$1" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -KILL "$1" 2>/dev/null || true
}

# mounted_below: print the mount points under the work directory, latest first.
mounted_below() {
	local dir
	while read -r _ dir _; do
		case $dir in "$work"/*) echo "$dir" ;; esac
	done < <(tac /proc/mounts)
}

# undo_mounts: unmount whatever lies under the work directory, then detach the loop
# device whose name is in $work/loop. (The kernel's list does not tell whose it is: the
# path of its file begins at the file system of nbdfuse.)
undo_mounts() {
	local dir
	for dir in $(mounted_below); do
		grep -qF "$dir fuse" /proc/mounts || umount "$dir" || umount -l "$dir" || true
	done
	if [ -s "$work/loop" ]; then
		losetup -d "$(cat "$work/loop")" && rm "$work/loop"
	fi
	for dir in $(mounted_below); do
		umount "$dir" || umount -l "$dir" || true
	done
}

cleanup() {
	trap - EXIT INT TERM
	set +e
	undo_mounts
	for f in "$work"/*.pid; do
		[ -s "$f" ] && end_process "$(cat "$f")"
	done
	[ -n "$server_pid" ] && end_process "$server_pid"
	[ -n "$keep_log" ] && cp "$work/server.log" "$keep_log"
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
