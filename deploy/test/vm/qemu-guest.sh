# Guest whose disk is a volume that QEMU reads from node GATEWAY (nbd://NODE/VOLUME, with reconnect-delay), with the system on it. It works
# there, under fio, while the primary is killed, the volume is handed over, and the node that QEMU talks to is killed: no error of
# I/O, no damage. Then all nodes are killed, the guest boots again (ROUND 2) and finds what it wrote.
set -e
t() { read -r u _ </proc/uptime; echo "[$u] $*"; }
die() { t "FAIL: $*"; dmesg | tail -n 30; exit 1; }
level() { host blkctl wait pg --for=uptodate --timeout 60s >/dev/null; }
modprobe ext4; mkdir -p /mnt/d; mount -t ext4 /dev/vda /mnt/d || die "the disk is not there"
for d in dev proc sys lab; do mkdir -p /mnt/d/$d; mount -o bind /$d /mnt/d/$d; done
root() { chroot /mnt/d "$@"; }

if [ "$ROUND" = 1 ]; then
  cp -a /usr/bin/fio /mnt/d/usr/bin/; cp -a /usr/lib/x86_64-linux-gnu/. /mnt/d/usr/lib/x86_64-linux-gnu/
  dmesg -c >/dev/null
  for f in $FAULTS; do
    root fio --name=v --directory=/root --rw=randwrite --bs=4k --size=8m --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_backlog=64 \
      --time_based --runtime=12 >/tmp/fio.out 2>&1 & w=$!
    root iogap -t 12s -pause 5ms -gap 100s /root/gap >/tmp/gap.out 2>&1 & g=$!
    sleep 2; p=$(host primary pg)
    case $f in
      kill)    host node kill "$p"; sleep 4; host node start "$p";;
      promote) host blkctl promote pg >/dev/null;;
      gateway) host node kill "$GATEWAY"; sleep 2; host node start "$GATEWAY";;
    esac
    wait $w || { cat /tmp/fio.out; die "$f: fio"; }
    wait $g || { cat /tmp/gap.out; die "$f: iogap"; }
    level
    t "$f: $(grep longest /tmp/gap.out | sed 's/iogap: //'); primary was n$p, is n$(host primary pg), the client at n$GATEWAY"
    dmesg -c >/tmp/dmesg
    if grep -E 'I/O error|aborted|Remounting|JBD2:.*error|critical' /tmp/dmesg; then die "$f: the kernel saw errors"; fi
  done
  echo "written before the reboot" >/mnt/d/root/f
else
  [ "$(root cat /root/f)" = "written before the reboot" ] || die "DAMAGE: the file is not there"
fi
for d in dev proc sys lab; do umount -l /mnt/d/$d; done; umount /mnt/d
e2fsck -fn /dev/vda >/tmp/fsck 2>&1 || { cat /tmp/fsck; die "DAMAGE: the file system"; }
t "PASS qemu, boot $ROUND"
