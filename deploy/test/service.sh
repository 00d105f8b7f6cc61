#!/usr/bin/env bash
# service.sh: services follow a volume, on a cluster of blkctl dev, with real processes: a
# manager for each node, an OCF agent (heartbeat:Dummy), a floating address (for root:
# heartbeat:IPaddr2), and a "database" that writes to the volume
# through the NBD server and counts what was acknowledged. The service is moved, its
# manager and its node are killed, a step fails, and a stranger takes the volume.
# bin/blkd and bin/blkctl must have been built. Needs resource-agents, python3-libnbd.
#
#   deploy/test/service.sh
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
# shellcheck source=lib.sh
source deploy/test/lib.sh

# In a network of its own, which ends with the script.
if [ "$(id -u)" = 0 ] && command -v ip >/dev/null && [ -z "${SERVICE_NETWORK:-}" ]; then
	trap - EXIT
	rm -rf "$work"
	SERVICE_NETWORK=1 exec unshare --net "$PWD/deploy/test/service.sh"
fi

blkctl=$PWD/bin/blkctl
readonly address=10.99.0.100

# interfaces: one for each node, to which IPaddr2 can give an address.
interfaces() {
	local n
	ip_step=
	if [ -z "${SERVICE_NETWORK:-}" ] || [ ! -x /usr/lib/ocf/resource.d/heartbeat/IPaddr2 ]; then
		say "without a floating address: that needs root, iproute2 and resource-agents"
		return
	fi
	ip link set lo up
	for n in n1 n2 n3; do
		ip link add "blk$n" type bridge
		ip address add "10.99.0.${n#n}/24" dev "blk$n"
		ip link set "blk$n" up
	done
	ip_step=1
}

# database is what the last step runs: it writes a number into the volume once more each
# time, and appends it to a file that is not replicated only after it was acknowledged. It
# begins with what the volume has: it must not be less than what was acknowledged.
database() {
	: >"$work/acknowledged"
	cat >"$work/database" <<-'END'
		import nbd, os, sys, time
		acknowledged, attachment = sys.argv[1], os.environ["BLKD_ATTACHMENT"]
		h = nbd.NBD()
		h.connect_uri(os.environ["BLKD_URI"])
		n = int.from_bytes(h.pread(8, 0), "little")
		last = 0
		if os.path.exists(acknowledged):
		    lines = open(acknowledged).read().split("\n")
		    last = int(lines[-2].split()[0]) if len(lines) > 1 else 0
		if n < last:
		    open(acknowledged + ".lost", "a").write(f"{attachment} found {n}, {last} was acknowledged\n")
		    sys.exit(1)
		out = open(acknowledged, "a", buffering=1)
		while True:
		    n += 1
		    h.pwrite(n.to_bytes(8, "little"), 0, nbd.CMD_FLAG_FUA)
		    out.write(f"{n} {attachment}\n")
		    time.sleep(0.01)
	END
}

# configure NODE: what runs there.
configure() {
	mkdir -p "$work/$1"
	cat >"$work/$1.toml" <<-END
		volume = "pg"
		device = false
		takeover_after = "8s"

		[[step]]
		name = "check"
		start = "$blkctl service check pg"
		stop = "true"

		[[step]]
		ocf = "heartbeat:Dummy"
		params = { state = "$work/$1/dummy" }
		stop_timeout = "5s"
	END
	if [ -n "$ip_step" ]; then
		cat >>"$work/$1.toml" <<-END

			[[step]]
			ocf = "heartbeat:IPaddr2"
			params = { ip = "$address", nic = "blk$1", cidr_netmask = "24", arp_count = "1", arp_interval = "1" }
		END
	fi
	cat >>"$work/$1.toml" <<-END

		[[step]]
		name = "database"
		start = "test ! -e $work/$1/broken && { test -e $work/$1/pid && kill -0 \$(cat $work/$1/pid) || { setsid /usr/bin/python3 $work/database $work/acknowledged </dev/null >>$work/$1/database.log 2>&1 & echo \$! >$work/$1/pid; }; }"
		stop = "if test -e $work/$1/pid; then kill -CONT \$(cat $work/$1/pid) 2>/dev/null; kill \$(cat $work/$1/pid) 2>/dev/null; rm $work/$1/pid; fi; true"
		status = "kill -0 \$(cat $work/$1/pid)"
	END
}

# manager NODE: start one.
manager() {
	OCF_ROOT=/usr/lib/ocf HA_RSCTMP=$work/$1 "$blkctl" service run pg --config "$work/$1.toml" --name "$1" --state "$work/$1/state" \
		--socket "$work/dev/$1/data/blkd.sock" >>"$work/$1.log" 2>&1 </dev/null &
	echo $! >"$work/manager-$1.pid"
}

phase() { sed -n 's/^ *"phase": "\(.*\)",*$/\1/p' "$work/$1/state/pg.json" 2>/dev/null; }

# runs NODE: the service runs there, with all that belongs to it.
runs() {
	[ "$(phase "$1")" = running ] && [ -e "$work/$1/dummy" ] && kill -0 "$(cat "$work/$1/pid")" 2>/dev/null &&
		{ [ -z "$ip_step" ] || ip -brief address show "blk$1" | has "$address/"; }
}

# rests NODE: nothing of it runs there.
rests() {
	[ ! -e "$work/$1/dummy" ] && [ ! -e "$work/$1/pid" ] && [ ! -e "$work/$1/state/pg.env" ] &&
		{ [ -z "$ip_step" ] || ! ip -brief address show "blk$1" | has "$address/"; }
}

# only NODE: it runs there, and nowhere else.
only() {
	local n
	for n in n1 n2 n3; do
		if [ "$n" = "$1" ]; then runs "$n" || return; else rests "$n" || return; fi
	done
}

# usable NODE: a service whose turn it is there starts there. Under load, a node that has
# just come back is not at once.
usable() {
	local node
	node=$("$blkctl" node show "$1" -o json)
	[[ $node == *'"health": "up"'* && $node == *'"held_until": null'* ]]
}

nowhere() { rests n1 && rests n2 && rests n3; }

diagnose() { tail -n 15 "$work"/n?.log "$work"/n?/database.log; }

# progress: the database goes on, and has lost nothing.
progress() {
	local before
	before=$(wc -l <"$work/acknowledged")
	eventually more "$before"
	[ ! -e "$work/acknowledged.lost" ] || fail "acknowledged writes are lost: $(cat "$work/acknowledged.lost")"
	# Numbers only rise, and so do attachments: nobody has written under an old one.
	awk '$1 <= n || $2 < a { print "line " NR ": " $0 " after " n " " a; exit 1 } { n = $1; a = $2 }' "$work/acknowledged" || fail "two databases have written"
}

more() { [ "$(wc -l <"$work/acknowledged")" -gt "$(($1 + 20))" ]; }

enabled() {
	"$blkctl" volume create pg 64MiB --layout "mirror 3" --timeout 1m
	eventually usable n1
	"$blkctl" service enable pg --on n1,n2,n3
	eventually only n1
	progress
}

moved() {
	"$blkctl" service move pg --to n2 --timeout 1m --reason "test"
	eventually only n2
	progress
	"$blkctl" service list | has '^pg .* n2  *service@n2 ' || fail "$("$blkctl" service list)"
}

# manager_killed: what it has started goes on, and the next one takes it over; the
# database writes on and is not started again.
manager_killed() {
	local database
	database=$(cat "$work/n2/pid")
	kill -KILL "$(cat "$work/manager-n2.pid")"
	progress
	manager n2
	eventually grep -q 'taking over what an earlier manager has started' "$work/n2.log"
	eventually only n2
	progress
	[ "$(cat "$work/n2/pid")" = "$database" ] || fail "the database was started again: $(tail -n 1 "$work/n2/database.log")"
}

# manager_late: what it has started is stopped if the volume was taken meanwhile.
manager_late() {
	kill -KILL "$(cat "$work/manager-n2.pid")"
	"$blkctl" service move pg --to n3 --timeout 1m # n2 does not give it up: n3 takes it over
	eventually runs n3
	manager n2
	eventually only n3
	progress
}

# database_dies: it is started again where it was.
database_dies() {
	kill -KILL "$(cat "$work/n3/pid")"
	eventually grep -q 'the service has failed' "$work/n3.log"
	eventually only n3
	progress
}

# step_fails: where it does not start again, another node runs it.
step_fails() {
	eventually usable n1
	touch "$work/n3/broken"
	kill -KILL "$(cat "$work/n3/pid")"
	eventually only n1
	rm "$work/n3/broken"
	progress
	"$blkctl" history pg | has 'service n3 -> n1 .*it has failed on n3' || fail "$("$blkctl" history pg)"
}

# lost: an operator frees the volume while the service runs. It stops, and begins anew
# under another attachment.
lost() {
	local database
	database=$(cat "$work/n1/pid")
	"$blkctl" detach pg --holder service@n1 --reason "test"
	eventually grep -q 'another client has taken the volume over' "$work/n1.log"
	eventually only n1
	[ "$(cat "$work/n1/pid")" != "$database" ] || fail "the database goes on under an attachment that is over"
	progress
}

# node_dies: its blkd is killed for good, its machine and manager live; the next node
# takes over, and the first one stops what it runs as soon as it hears of that.
node_dies() {
	eventually usable n2
	kill -STOP "$(cat "$work/n1/pid")" # a database that hangs meanwhile
	kill -STOP "$(cat "$work/dev/n1/pid")"
	eventually runs n2
	kill -CONT "$(cat "$work/dev/n1/pid")"
	eventually only n2
	progress
	"$blkctl" history pg | has 'service n1 -> n2 .*has been down' || fail "$("$blkctl" history pg)"
}

drained() {
	eventually usable n1
	"$blkctl" node drain n2 --keep-replicas
	eventually only n1
	"$blkctl" node undrain n2
	progress
}

disabled() {
	local number
	number=$(sed -n "s/^BLKD_ATTACHMENT='\(.*\)'$/\1/p" "$work/n1/state/pg.env")
	"$blkctl" service check pg --holder service@n1 --attachment "$number"
	"$blkctl" service disable pg
	eventually nowhere
	local rc=0
	"$blkctl" service check pg --holder service@n1 --attachment "$number" || rc=$?
	[ "$rc" = 6 ] || fail "an attachment that is over is good: $rc"
	"$blkctl" service enable pg --to n1
	eventually only n1
	rc=0
	"$blkctl" service check pg --holder service@n1 --attachment "$number" || rc=$?
	[ "$rc" = 6 ] || fail "an attachment that was given up between is good: $rc"
	progress
}

told_to_stop() {
	kill "$(cat "$work/manager-n1.pid")"
	eventually ended
	nowhere || fail "something goes on"
	"$blkctl" attachments | has '^pg *- ' || fail "the volume was not given up: $("$blkctl" attachments)"
}

ended() { ! kill -0 "$(cat "$work/manager-n1.pid")" 2>/dev/null; }

trap 'end_all' EXIT
end_all() {
	local n
	for n in n1 n2 n3; do
		[ -s "$work/manager-$n.pid" ] && end_process "$(cat "$work/manager-$n.pid")"
		[ -s "$work/$n/pid" ] && kill -CONT "$(cat "$work/$n/pid")" 2>/dev/null && end_process "$(cat "$work/$n/pid")"
		[ -s "$work/dev/$n/pid" ] && kill -CONT "$(cat "$work/dev/$n/pid")" 2>/dev/null
	done
	cleanup
}

for x in "/usr/lib/ocf/resource.d/heartbeat/Dummy resource-agents" "/usr/lib/python3/dist-packages/nbd.py python3-libnbd"; do
	read -r file package <<<"$x"
	[ -e "$file" ] || {
		say "skip: $file is missing (apt-get install $package)"
		exit 0
	}
done
interfaces
start_dev || {
	cat "$work/dev.log"
	exit 1
}
export BLKCTL_NODE
database
for n in n1 n2 n3; do
	configure $n
	manager $n
done
# step NAME FUNCTION: each needs what the one before has left.
step() { [ "$failed" -gt 0 ] || run "$@"; }
run "it starts on the first node" enabled
step "it is moved" moved
step "its manager is killed and starts again" manager_killed
step "its manager is killed and comes back too late" manager_late
step "its database dies" database_dies
step "it does not start any more" step_fails
step "its volume is taken away" lost
step "the blkd of its node stands still" node_dies
step "its node is drained" drained
step "it is disabled, and enabled again" disabled
step "its manager is told to stop" told_to_stop
finish
