#!/usr/bin/env bash
# pacemaker.sh: Debian's Pacemaker and Corosync on three nodes, each in namespaces of its
# own, lead a promotable clone of ocf:blkd:volume on a cluster of blkctl dev: a node is put
# on standby, the resource is moved, a primary and its node's Pacemaker die. bin/blkd and
# bin/blkctl must have been built. Needs root, iproute2, pacemaker, corosync,
# pacemaker-cli-utils and resource-agents.
#
#   deploy/test/pacemaker.sh
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
# shellcheck source=lib.sh
source deploy/test/lib.sh

readonly nodes="n1 n2 n3"

# The network that joins the nodes is of this script's own.
if [ -z "${PACEMAKER_NETWORK:-}" ]; then
	trap - EXIT
	rm -rf "$work"
	for x in pacemakerd corosync crm_resource ip unshare nsenter; do
		if [ "$(id -u)" != 0 ] || ! command -v $x >/dev/null; then
			echo "skip: it needs root, and $x (apt-get install pacemaker corosync pacemaker-cli-utils iproute2)"
			exit 0
		fi
	done
	PACEMAKER_NETWORK=1 exec unshare --net "$PWD/deploy/test/pacemaker.sh"
fi

# configure: what all nodes have in /etc/corosync, and the agents.
configure() {
	local n
	mkdir -p "$work/agents"
	cp deploy/ocf/volume "$work/agents/"
	cat >"$work/blkctl" <<-END
		#!/bin/sh
		exec env -u BLKCTL_NODE $PWD/bin/blkctl --socket "$work/dev/\$(uname -n)/data/blkd.sock" "\$@"
	END
	chmod 755 "$work/blkctl" "$work" "$work/agents/volume"
	{
		printf '%s\n' 'totem {' 'version: 2' 'cluster_name: blkd' 'transport: udpu' 'token: 3000' '}' \
			'quorum {' 'provider: corosync_votequorum' '}' \
			'logging {' 'to_syslog: no' 'to_stderr: no' 'to_logfile: yes' 'logfile: /var/log/corosync.log' '}' 'nodelist {'
		for n in $nodes; do printf 'node {\nname: %s\nnodeid: %s\nring0_addr: 10.98.0.%s\n}\n' "$n" "${n#n}" "${n#n}"; done
		echo '}'
	} >"$work/corosync.conf"
}

# boot NODE: Corosync and Pacemaker in a network, a mount, a PID and a host name of their
# own. They end with the first process of that.
boot() {
	local n=$1 init
	mkdir -p "$work/$n/var" "$work/$n/corosync" "$work/$n/log"
	cp "$work/corosync.conf" "$work/$n/corosync/"
	cat >"$work/$n/init" <<-END
		hostname $n
		for d in /run /dev/shm /var/lib/pacemaker /var/lib/corosync; do mount -t tmpfs tmpfs \$d; done
		mkdir -p /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/cores /var/lib/pacemaker/blackbox /run/lock /run/crm /run/resource-agents
		chown -R hacluster:haclient /var/lib/pacemaker /run/crm
		mount --bind "$work/$n/log" /var/log
		mount --bind "$work/$n/corosync" /etc/corosync
		mkdir -p /usr/lib/ocf/resource.d/blkd && mount --bind "$work/agents" /usr/lib/ocf/resource.d/blkd
		ip link set lo up
		until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
		ip address add 10.98.0.${n#n}/24 dev eth0
		ip link set eth0 up
		corosync -f &
		until corosync-quorumtool -s >/dev/null 2>&1; do sleep 0.2; done
		PCMK_logfile=/var/log/pacemaker.log PCMK_logpriority=notice exec pacemakerd -f
	END
	unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc sh "$work/$n/init" >"$work/$n/out" 2>&1 </dev/null &
	echo $! >"$work/pacemaker-$n.pid"
	for _ in $(seq 100); do
		init=$(pgrep -P "$(cat "$work/pacemaker-$n.pid")" | head -n 1) && [ -n "$init" ] && break
		sleep 0.05
	done
	echo "$init" >"$work/$n/init-pid"
	ip link add "v$n" type veth peer name eth0 netns "$init"
	ip link set "v$n" master joins
	ip link set "v$n" up
}

# at NODE COMMAND…: runs there.
at() {
	local n=$1
	shift
	nsenter --target "$(cat "$work/$n/init-pid")" --net --mount --uts --ipc --pid "$@"
}

diagnose() {
	for n in $nodes; do at "$n" crm_mon -1A 2>&1 | tail -n 25; tail -n 15 "$work/$n"/log/pacemaker.log "$work/$n/out"; done
}

primary() { bin/blkctl volume show demo -o json | sed -n 's/.*"primary": "\(.*\)".*/\1/p' | head -n 1; }
promoted() { at "$1" crm_resource --resource vol-clone --locate 2>/dev/null | sed -n 's/.*running on: \(.*\) \(Promoted\|Master\).*/\1/p'; }

# agree NODE VIEW: Pacemaker, as VIEW sees it, and blkd call NODE the primary.
agree() { [ "$(promoted "$2")" = "$1" ] && [ "$(primary)" = "$1" ]; }
# agreed VIEW [BUT]: on any node, other than BUT.
agreed() {
	local p
	p=$(promoted "$1")
	[ -n "$p" ] && [ "$p" != "${2:-}" ] && agree "$p" "$1"
}

# promotions: how often the primary has changed.
promotions() { bin/blkctl history demo | grep -c promoted || true; }

# calm: for a while nobody changes the primary: the two do not duel.
calm() {
	local before
	before=$(promotions)
	sleep 12 # each monitor has run
	[ "$(promotions)" = "$before" ] || fail "the primary moves on: $(bin/blkctl history demo)"
}

promotes() {
	eventually at n1 crm_node --quorum
	eventually at n1 cibadmin --query --scope resources
	at n1 crm_attribute --type crm_config --name stonith-enabled --update false
	at n1 cibadmin --modify --allow-create --scope resources --xml-text "
		<resources><clone id='vol-clone'>
		<meta_attributes id='m'><nvpair id='m1' name='promotable' value='true'/><nvpair id='m2' name='notify' value='true'/></meta_attributes>
		<primitive id='vol' class='ocf' provider='blkd' type='volume'>
		<instance_attributes id='p'><nvpair id='p1' name='volume' value='demo'/><nvpair id='p2' name='blkctl' value='$work/blkctl'/></instance_attributes>
		<operations><op id='o1' name='monitor' interval='10s' role='Promoted' timeout='20s'/><op id='o2' name='monitor' interval='11s' role='Unpromoted' timeout='20s'/>
		<op id='o3' name='start' interval='0' timeout='60s'/><op id='o4' name='promote' interval='0' timeout='60s'/><op id='o5' name='stop' interval='0' timeout='60s'/></operations>
		</primitive></clone></resources>"
	eventually agreed n1
	calm
}

# other NODE: a node that is not.
other() { for n in $nodes; do [ "$n" = "$1" ] || { echo "$n"; return; }; done; }

moves() {
	local to
	to=$(other "$(primary)")
	at n1 crm_resource --resource vol-clone --move --promoted --node "$to"
	eventually agree "$to" n1
	at n1 crm_resource --resource vol-clone --clear
	calm
	agree "$to" n1 || fail "it went back"
}

standby() {
	local p
	p=$(primary)
	at n1 crm_standby --node "$p" --update on
	eventually agreed n1 "$p"
	at n1 crm_standby --node "$p" --delete
	calm
}

# fails_over: blkd fails over by itself, and Pacemaker follows.
fails_over() {
	local p view
	p=$(primary) view=$(other "$p")
	kill -KILL "$(cat "$work/dev/$p/pid")"
	eventually agreed "$view" "$p"
	calm
}

# dies: the machine of the primary, with blkd and Pacemaker.
dies() {
	local p view
	p=$(primary) view=$(other "$p")
	kill -KILL "$(cat "$work/$p/init-pid")"
	kill -STOP "$(cat "$work/dev/$p/pid")"
	eventually agreed "$view" "$p"
	kill -CONT "$(cat "$work/dev/$p/pid")"
	calm
	agreed "$view" "$p" || fail "they disagree"
}

trap 'end_all' EXIT
end_all() {
	local n
	set +e
	for n in $nodes; do
		[ -s "$work/$n/init-pid" ] && kill -KILL "$(cat "$work/$n/init-pid")" 2>/dev/null # it may have died
		[ -s "$work/dev/$n/pid" ] && kill -CONT "$(cat "$work/dev/$n/pid")" 2>/dev/null
	done
	rmdir /usr/lib/ocf/resource.d/blkd 2>/dev/null # where the agents were mounted
	cleanup
}

ip link set lo up
ip link add joins type bridge
ip link set joins up
start_dev || { cat "$work/dev.log"; exit 1; }
export BLKCTL_NODE
configure
for n in $nodes; do boot "$n"; done
step() { [ "$failed" -gt 0 ] || run "$@"; }
run "Pacemaker promotes where blkd serves" promotes
step "the primary is moved" moves
step "its node is on standby" standby
step "its blkd dies" fails_over
step "its machine dies" dies
finish
