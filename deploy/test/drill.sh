#!/usr/bin/env bash
# drill.sh: blkctl check, and the drills that are named, on a cluster of blkctl dev.
# bin/blkd and bin/blkctl must have been built. The report is left in out/drill.html.
#
#   deploy/test/drill.sh all
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
dir=$(mktemp -d "${TMPDIR:-/tmp}/blkd-drill.XXXXXX")
bin/blkctl dev --dir "$dir" >"$dir/dev" &
dev=$!
trap 'kill $dev; wait $dev || true; rm -rf "$dir"' EXIT
until grep -q BLKCTL_NODE "$dir/dev"; do
	kill -0 $dev || exit 1
	sleep 0.1
done
BLKCTL_NODE=$(sed -n 's/.*BLKCTL_NODE=//p' "$dir/dev")
export BLKCTL_NODE
mkdir -p out
bin/blkctl check --time 3s
bin/blkctl drill "$@" --dev "$dir" --html out/drill.html
