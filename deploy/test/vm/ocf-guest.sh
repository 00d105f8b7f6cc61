# Two guests with Pacemaker's agents. ocf-tester goes over ocf:blkd:attach with a real device. Then the group of docs/manual/pacemaker.md, that agent and
# heartbeat:Filesystem, is led as Pacemaker would: the primary and the agent's process are killed, the other guest takes the volume from this one while it
# stands still, this one wakes up and can be stopped, and the group moves back in order.
. /lab/guest.sh
ln -sf dash /bin/sh # Debian's; the agents are for that
grep -q ^nobody: /etc/passwd || echo 'nobody:x:65534:65534::/:/bin/sh' >>/etc/passwd
export OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=pg OCF_RESKEY_CRM_meta_timeout=60000 HA_RSCTMP=/tmp
export OCF_RESKEY_volume=pg OCF_RESKEY_nodes=$NODES_AT OCF_RESKEY_device=$dev OCF_RESKEY_directory=/mnt/d OCF_RESKEY_fstype=ext4
SUCCESS=0 FAILED=1 NOT_RUNNING=7
unset BLKCTL_NODE # as the parameter nodes tells
EVERY=10000       # an action is a probe if this is 0

# act AGENT ACTION [NAME=VALUE]...: as Pacemaker would; what was said is in /tmp/said
act() {
  agent=$1 action=$2; shift 2
  env OCF_RESKEY_CRM_meta_interval="$EVERY" "$@" __OCF_ACTION="$action" /usr/lib/ocf/resource.d/"$agent" "$action" >/tmp/said 2>&1
}
# wants CODE AGENT ACTION [NAME=VALUE]...
wants() {
  code=$1; shift
  rc=0; act "$@" || rc=$?
  [ $rc = "$code" ] || { cat /tmp/said; die "$*: $rc instead of $code"; }
}
said() { grep -q "$1" /tmp/said || { cat /tmp/said; die "it does not say: $1"; }; }
group_start() { wants $SUCCESS blkd/attach start; wants $SUCCESS heartbeat/Filesystem start; }
group_stop() { wants $SUCCESS heartbeat/Filesystem stop; wants $SUCCESS blkd/attach stop; [ ! -e $dev ] || die "the name is left"; }
group_runs() { wants $SUCCESS blkd/attach monitor; wants $SUCCESS heartbeat/Filesystem monitor; }

tester() {
  ocf-tester -n pg -o volume=pg -o nodes="$NODES_AT" /usr/lib/ocf/resource.d/blkd/attach >/tmp/tester 2>&1 || { cat /tmp/tester; die "ocf-tester"; }
  t "$(tail -n 1 /tmp/tester)"
}

# gives_up: an attach that waits says for what, and one that is killed while it waits does not take the volume later.
gives_up() {
  host node stop 2; host node stop 3
  blkctl --node "$NODES_AT" attach pg >/tmp/waits 2>&1 & front=$!
  for _ in $(seq 100); do ! grep -q waiting: /tmp/waits || break; sleep 0.2; done
  grep waiting: /tmp/waits || die "it does not say that it waits"
  kill -9 $front; for _ in $(seq 100); do pidof blkctl >/dev/null || break; sleep 0.1; done
  pidof blkctl && die "it goes on without the one who asked"
  host node cont 2; host node cont 3
}

# through FAULT: writes wait while it lasts, and Pacemaker is told of no failure
through() {
  iogap -t 12s -pause 5ms -gap 100s /mnt/d/gap >/tmp/gap 2>&1 & g=$!
  sleep 2; "$1"
  for _ in $(seq 8); do group_runs; sleep 1; done
  wait $g || { cat /tmp/gap; die "$1: iogap"; }
  level; unharmed "$1"
  t "$1: $(grep longest /tmp/gap | sed 's/iogap: //')"
}
primary_dies() { p=$(primary); host node kill "$p"; group_runs; sleep 2; host node start "$p"; }
# A probe changes nothing; the monitor gives the device a new process.
agent_dies() {
  before=$(agent); kill -9 "$before"
  EVERY=0; group_runs; EVERY=10000
  [ "$(agent)" = "$before" ] || die "a probe has started a process"
  group_runs; [ "$(agent)" != "$before" ] || die "the monitor has not replaced the process"
  primary_dies
}
# Without a quorum there is no new process, and that is no failure of the group.
quorum_gone() {
  p=$(primary); kill -9 "$(agent)"
  for n in 1 2 3; do [ $n = "$p" ] || host node stop $n; done
  wants $SUCCESS blkd/attach monitor OCF_RESKEY_CRM_meta_timeout=8000
  ! dmesg | grep -E 'block nbd.*(Receive control|Dead connection|shutting down)' || die "it cut the link of a device that was at work"
  for n in 1 2 3; do host node cont $n; done
}

n1() {
  trap '[ $? = 0 ] || host kill 2' EXIT # it would wait
  tester; gives_up
  wants $SUCCESS blkd/attach start
  make_fs; wants $SUCCESS heartbeat/Filesystem start; echo n1 >/mnt/d/who; sync
  wants $FAILED blkd/attach stop; said 'in use'
  dmesg -c >/dev/null
  through primary_dies; through agent_dies; through quorum_gone
  barrier mounted
  # It stands still now, and wakes up when n2 has the volume.
  until ! act blkd/attach monitor; do sleep 0.2; done
  t "n1 woke up: monitor $(tail -n 1 /tmp/said)"
  ! echo late >/mnt/d/who 2>/dev/null || ! sync /mnt/d/who || die "n1 writes on"
  # What Pacemaker does then: nothing needs to be fenced for that.
  group_stop
  wants $FAILED blkd/attach start OCF_RESKEY_takeover=false; said 'attached by n2'
  barrier stopped; barrier given-up
  group_start; group_runs
  [ "$(cat /mnt/d/who)" = n2 ] || die "what n2 wrote is not there"
  group_stop
  blkctl --node "$NODES_AT" attach pg >/dev/null || die "the volume was not given up"; check_fs
  t "PASS ocf n1"
}

n2() {
  trap '[ $? = 0 ] || host kill 1' EXIT # it would write on
  barrier mounted
  wants $NOT_RUNNING blkd/attach monitor
  wants $FAILED blkd/attach start OCF_RESKEY_takeover=false; said 'attached by n1'
  wants $SUCCESS blkd/attach stop
  host pause 1; read -r a _ </proc/uptime
  group_start; read -r b _ </proc/uptime
  [ "$(cat /mnt/d/who)" = n1 ] || die "what n1 wrote is not there"
  t "n2 has the group $(awk "BEGIN {printf \"%.1f\", $b - $a}") s after n1 stood still"
  echo n2 >/mnt/d/who; sync; host cont 1
  barrier stopped; group_runs; unharmed "n1 writes on"
  group_stop
  t "PASS ocf n2"; barrier given-up
}
n$NODE
