# Guest: a volume of the host's cluster as /dev/nbdN with a file system, through every failure of a server.
# FS, FAULTS: what to try. Prints the longest that a write waited; fails on any error of I/O.
. /lab/guest.sh

t "$(attach)" || die "attach"
n=$(basename "$(readlink -f $dev)")
for q in logical_block_size write_cache fua io_timeout discard_max_bytes; do printf '%s=%s ' $q "$(cat /sys/block/$n/queue/$q)"; done; echo
make_fs; mount -t "$FS" $dev /mnt/d || die mount
dmesg -c >/dev/null

fault() {
  p=$(primary)
  case $1 in
    kill)    host node kill "$p"; sleep 4; host node start "$p";;
    promote) host blkctl promote pg >/dev/null;;
    stop)    host node stop "$p"; sleep 5; host node cont "$p";;
    restart) for i in 1 2 3; do host node term $i; host node start $i; sleep 1; level; done;;
    agent)   kill -9 "$(agent)"; sleep 1; attach >/dev/null;;
    agent-kill) kill -9 "$(agent)"; host node kill "$p"; sleep 3; attach >/dev/null; host node start "$p";;
  esac
}
for f in $FAULTS; do
  fio --name=v --directory=/mnt/d --rw=randwrite --bs=4k --size=8m --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_backlog=64 \
    --time_based --runtime=${SECONDS_EACH:-12} --output=/tmp/fio.out >/dev/null 2>&1 & w=$!
  iogap -t ${SECONDS_EACH:-12}s -pause 5ms -gap 100s /mnt/d/gap >/tmp/gap.out 2>&1 & g=$!
  sleep 2; fault "$f"
  wait $w || { cat /tmp/fio.out; die "$f: fio"; }
  wait $g || { cat /tmp/gap.out; die "$f: iogap"; }
  level
  t "$FS, $f: $(grep longest /tmp/gap.out | sed 's/iogap: //'); primary was n$p, is n$(primary)"
  unharmed "$f"
done
umount /mnt/d; check_fs
blkctl detach pg || die "detach"
[ ! -e $dev ] || die "the name is left"
t "PASS attach $FS"
