#!/usr/bin/env bash
# ocf.sh: the resource agents of deploy/ocf under ocf-tester, and through a failover, on a
# cluster of blkctl dev. bin/blkd and bin/blkctl must have been built. Of Pacemaker only
# crm_attribute is acted, to see the scores. Needs resource-agents and libxml2-utils; the
# agent attach also root and the kernel module nbd.
#
#   deploy/test/ocf.sh
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
# shellcheck source=lib.sh
source deploy/test/lib.sh

export OCF_ROOT=${OCF_ROOT:-/usr/lib/ocf} OCF_RESKEY_volume=demo OCF_RESKEY_blkctl=$PWD/bin/blkctl
export OCF_RESKEY_crm_feature_set=3.16.2 OCF_RESOURCE_INSTANCE=pg:0 OCF_RESKEY_CRM_meta_timeout=30000
readonly NOT_RUNNING=7 PROMOTED=8 FAILED_PROMOTED=9

# actor: a crm_attribute that notes what Pacemaker would be told.
actor() {
	mkdir -p "$work/sbin"
	cat >"$work/sbin/crm_attribute" <<-'END'
		#!/bin/sh
		echo "$*" >"$SCORE"
	END
	chmod 755 "$work/sbin/crm_attribute"
}

# on NODE AGENT ACTION: run an action as on the machine of a node; prints its exit code.
on() {
	local rc=0
	mkdir -p "$work/$1"
	HA_SBIN_DIR=$work/sbin SCORE=$work/$1/score HA_RSCTMP=$work/$1 OCF_RESKEY_socket=$work/dev/$1/data/blkd.sock __OCF_ACTION=$3 \
		deploy/ocf/"$2" "$3" >"$work/$1/said" 2>&1 || rc=$?
	cat "$work/$1/said" >&2
	echo $rc
}

# wants CODE NODE ACTION [SCORE]: an action of the agent volume must end so, with the score.
wants() {
	local rc
	rc=$(on "$2" volume "$3")
	[ "$rc" = "$1" ] || fail "$3 on $2 ends with $rc instead of $1: $(cat "$work/$2/said")"
	[ $# -lt 4 ] || [ "$(cat "$work/$2/score")" = "-p $4" ] || fail "$3 on $2 sets the score $(cat "$work/$2/score") instead of $4"
}

conforms() {
	for agent in volume attach; do
		deploy/ocf/$agent meta-data | (cd /usr/share/resource-agents && xmllint --noout --valid -)
	done
}

tester() {
	need ocf-tester resource-agents
	need xmllint libxml2-utils
	local n
	for n in n1 n2 n3; do # all are blkd's; one of them is primary before
		ocf-tester -n pg -o volume=demo -o "socket=$work/dev/$n/data/blkd.sock" -o "blkctl=$OCF_RESKEY_blkctl" "$PWD/deploy/ocf/volume"
	done
}

primary_is() { [ "$(BLKCTL_NODE=$BLKCTL_NODE bin/blkctl volume show demo -o json | sed -n 's/^ *"primary": "\(.*\)",*$/\1/p' | head -1)" = "$1" ]; }

# failover: Pacemaker promotes n2, which dies; blkd makes another one primary, and the
# agents tell Pacemaker where to go.
failover() {
	local n pid best=
	for n in n1 n2 n3; do
		wants $NOT_RUNNING $n monitor
		wants 0 $n start
	done
	wants 0 n2 promote "-v 10000"
	primary_is n2 || fail "n2 is not primary"
	wants $PROMOTED n2 monitor "-v 10000"
	wants 0 n1 monitor "-v 1000"
	wants 0 n1 notify "-v 1000"
	# Promoted elsewhere with nobody demoted: n2 has failed, and knows.
	wants 0 n3 promote "-v 10000"
	wants $FAILED_PROMOTED n2 monitor "-v 1000"
	wants 0 n2 demote "-v 1000"
	wants 0 n3 demote "-v 10000"
	wants 0 n2 promote
	pid=$(cat "$work/dev/n2/pid")
	kill -KILL "$pid"
	wants $FAILED_PROMOTED n2 monitor
	eventually higher
	best=$(cat "$work/best")
	wants 0 "$best" promote "-v 10000"
	primary_is "$best" || fail "$best is not primary"
	wants $PROMOTED "$best" monitor
	eventually back
	wants $FAILED_PROMOTED n2 monitor
	wants 0 n2 demote
	# Stop hands the volume over.
	wants 0 "$best" demote
	wants 0 "$best" stop "-D"
	! primary_is "$best" || fail "$best was stopped and is primary"
	wants $NOT_RUNNING "$best" monitor
	for n in n1 n2 n3; do wants 0 $n stop; done
}

# higher: n1 or n3 has the score of a primary.
higher() {
	local n
	for n in n1 n3; do
		on $n volume monitor >/dev/null
		if [ "$(cat "$work/$n/score")" = "-p -v 10000" ]; then
			echo $n >"$work/best"
			return
		fi
	done
	return 1
}

# back: the node that died runs again and is level.
back() { [ "$(bin/blkctl --socket "$work/dev/n2/data/blkd.sock" role demo 2>/dev/null)" = "Secondary UpToDate" ]; }

# mistakes: what is wrong is said, with the code that Pacemaker knows.
mistakes() {
	local -x OCF_RESKEY_CRM_meta_timeout=6000
	OCF_RESKEY_volume='' wants 6 n1 validate-all
	OCF_RESKEY_volume=../x wants 6 n1 start
	OCF_RESKEY_blkctl=no-blkctl wants 5 n1 monitor
	OCF_RESKEY_volume=other wants 1 n1 start
	grep -q 'no volume "other"' "$work/n1/said" || fail "the reason is not told: $(cat "$work/n1/said")"
	OCF_RESKEY_volume=other wants 0 n1 stop
	wants 3 n1 migrate_to
}

attach_idle() {
	local rc
	rc=$(on n1 attach monitor)
	[ "$rc" = $NOT_RUNNING ] || fail "monitor: $rc"
	rc=$(on n1 attach stop)
	[ "$rc" = 0 ] || fail "stop: $rc"
	if [ ! -e /sys/module/nbd ]; then
		rc=$(on n1 attach start)
		[ "$rc" = 1 ] && grep -q 'kernel module nbd\|modprobe nbd' "$work/n1/said" || fail "start without the module: $rc, $(cat "$work/n1/said")"
	fi
}

attach_tester() {
	need ocf-tester resource-agents
	[ "$(id -u)" = 0 ] || skip "it needs root"
	[ -e /sys/module/nbd ] || skip "the kernel module nbd is not loaded (modprobe nbd; make vm-ocf runs it in a guest)"
	ocf-tester -n pg -o volume=demo -o "nodes=$BLKCTL_NODE" -o "blkctl=$OCF_RESKEY_blkctl" "$PWD/deploy/ocf/attach"
}

[ -e "$OCF_ROOT/lib/heartbeat/ocf-shellfuncs" ] || {
	say "skip: resource-agents is not installed (apt-get install resource-agents libxml2-utils)"
	exit 0
}
start_dev
actor
run "meta-data is valid" conforms
run "ocf-tester passes volume" tester
run "Pacemaker's decisions and blkd's failover" failover
run "mistakes are told" mistakes
run "attach without a device" attach_idle
run "ocf-tester passes attach" attach_tester
finish
