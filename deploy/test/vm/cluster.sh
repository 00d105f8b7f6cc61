#!/bin/bash
# cluster.sh - the hook of the VM tests: three blkd on this machine's loopback, which the guest reaches at 10.0.2.2.
#   up | node kill|start|stop|cont|term N | blkctl WORDS... | primary VOLUME | exit
# CLUSTER_DIR holds data, logs and process ids; CLUSTER_PORT is the first of ten ports.
set -u
dir=${CLUSTER_DIR:?} port=${CLUSTER_PORT:?} bin=${CLUSTER_BIN:?}
nodes=$(for n in 1 2 3; do printf 'n%s=127.0.0.1:%s,' $n $((port + n)); done)
export BLKCTL_NODE=127.0.0.1:$((port + 1)),127.0.0.1:$((port + 2)),127.0.0.1:$((port + 3))
pid() { cat "$dir/n$1.pid"; }
start() {
  "$bin/blkd" --cluster "${nodes%,}" --node-name "n$1" --data-dir "$dir/n$1" --nbd "127.0.0.1:$((port + 3 + $1))" \
    --log-format text </dev/null >/dev/null 2>>"$dir/n$1.log" &
  echo $! >"$dir/n$1.pid"
}
gone() { while kill -0 "$1" 2>/dev/null; do sleep 0.02; done; }
cmd=$1; shift
[ "$cmd" != node ] || { cmd="node $1"; shift; }
case $cmd in
  up)     mkdir -p "$dir"; for n in 1 2 3; do start $n; done; "$bin/blkctl" wait cluster --for=quorum --timeout 60s;;
  "node start") start "$1";;
  "node kill") p=$(pid "$1"); kill -9 "$p"; gone "$p";;
  "node term") p=$(pid "$1"); kill "$p"; gone "$p";;
  "node stop") kill -STOP "$(pid "$1")";;
  "node cont") kill -CONT "$(pid "$1")";;
  blkctl) "$bin/blkctl" "$@";;
  primary) "$bin/blkctl" volume show "$1" -o json | sed -n 's/.*"primary": "n\(.\)".*/\1/p' | head -1;;
  exit)   for n in 1 2 3; do p=$(pid $n 2>/dev/null) && { kill -CONT "$p"; kill -9 "$p"; } 2>/dev/null; done;;
  *)      echo "cluster.sh: unknown: $cmd"; exit 127;;
esac
