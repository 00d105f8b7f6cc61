# Guest: what a relay costs and what it gains. Prints the mean latency of 4 KiB requests, with one and with 32 in flight, directly and
# through the relay, in turns; and how long a write waits when the primary is killed.
. /lab/guest.sh
# latency KIND DEPTH: the mean in microseconds, and the IOPS
latency() {
  fio --name=x --filename=$dev --direct=1 --ioengine=libaio --rw=rand"$1" --bs=4k --iodepth="$2" --time_based --runtime=4 --size=64m \
    --output-format=terse --terse-version=3 >/tmp/fio || { cat /tmp/fio; die "fio"; }
  case $1 in read) f=40 i=8;; write) f=81 i=49;; esac
  awk -F';' -v f=$f -v i=$i '{printf "%d us (%s/s)", $f, $i}' /tmp/fio
}
for round in 1 2 3; do
  for ATTACH in "" --relay; do
    attach >/dev/null || die attach
    [ $round != 1 ] || fio --name=fill --filename=$dev --direct=1 --rw=write --bs=1m --size=64m >/dev/null
    for depth in 1 32; do t "${ATTACH:-direct}, $depth in flight: read $(latency read $depth), write $(latency write $depth)"; done
    blkctl detach pg >/dev/null
  done
done
for k in $(seq "${KILLS:-5}"); do
  for ATTACH in "" --relay; do
    attach >/dev/null || die attach
    iogap -t 5s -pause 1ms -gap 100s $dev >/tmp/gap 2>&1 & g=$!
    sleep 1; p=$(primary); host node kill "$p"; sleep 2; host node start "$p"
    wait $g || { cat /tmp/gap; die iogap; }
    t "${ATTACH:-direct}, kill $k: $(grep longest /tmp/gap | sed 's/iogap: //')"
    level; blkctl detach pg >/dev/null
  done
done
t "PASS relay"
