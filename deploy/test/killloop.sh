#!/usr/bin/env bash
# killloop.sh: kill -9 blkd under load, N times (default 5), and check after each restart
# that every acknowledged write is there. See killloop/main.go.
#
#   deploy/test/killloop.sh 50
#   BLKD=./blkd deploy/test/killloop.sh 5 -seed 1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

rounds=${1:-5}
shift || true
build_blkd
(cd "$here/../.." && CGO_ENABLED=0 go build -o "$work/killloop" ./deploy/test/killloop)
mkdir "$work/volumes"
"$work/killloop" -blkd "$BLKD" -dir "$work/volumes" -rounds "$rounds" "$@"
