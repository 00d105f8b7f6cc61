# Two guests, one volume: the host that has mounted it hangs, the other one takes it over, recovers the file system and goes on.
# Then the first wakes up: what it writes must fail, and must not be on the volume.
. /lab/guest.sh
if [ "$NODE" = 1 ]; then
  attach --holder db1 || die "attach"
  make_fs; mount -t ext4 $dev /mnt/d
  echo "written by db1" >/mnt/d/f; sync
  barrier mounted
  # It writes on and on; meanwhile it is stopped, and continued when it has lost the volume.
  n=0; while dd if=/dev/zero of=/mnt/d/late bs=4k count=1 conv=fsync 2>/tmp/err; do n=$((n + 1)); sleep 0.1; [ $n -lt 3000 ] || die "db1 writes on"; done
  t "db1 woke up; its writes fail: $(head -1 /tmp/err)"
  attach --holder db1 2>/tmp/err && die "db1 attaches again"
  grep -q "attached by db2" /tmp/err || { cat /tmp/err; die "the refusal names nobody"; }
  t "PASS db1: $(head -1 /tmp/err)"
else
  barrier mounted
  attach --holder db2 2>/tmp/err && die "db2 attaches what db1 holds"
  grep -q "attached by db1" /tmp/err || { cat /tmp/err; die "the refusal names nobody"; }
  host pause 1; read -r a _ </proc/uptime
  attach --holder db2 --takeover || die "takeover"
  mount -t ext4 $dev /mnt/d || die "mount"
  [ "$(cat /mnt/d/f)" = "written by db1" ] || die "db1's file is not there"
  echo "written by db2" >/mnt/d/f; sync; read -r b _ </proc/uptime
  t "db2 serves $(awk "BEGIN{printf \"%.1f\", $b-$a}") s after db1 hung"
  umount /mnt/d; sha256sum $dev >/tmp/before
  host cont 1; sleep 20
  echo 3 >/proc/sys/vm/drop_caches; blockdev --flushbufs $dev
  sha256sum $dev >/tmp/after; cmp /tmp/before /tmp/after || die "something was written after db2 had unmounted"
  check_fs
  t "PASS db2"
fi
