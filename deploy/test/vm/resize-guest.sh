# Guest: a volume grows under a mounted file system, attached directly and by a relay. udev, if it is here, names the device.
. /lab/guest.sh
if command -v udevadm >/dev/null; then
  mkdir -p /etc/udev/rules.d; cp /lab/60-blkd.rules /etc/udev/rules.d/
  ln -s "$(command -v udevadm)" /run/systemd-udevd; /run/systemd-udevd --daemon
fi
mib=400
for ATTACH in "" --relay; do
  attach >/dev/null || die attach
  if command -v udevadm >/dev/null; then
    udevadm settle
    [ "$(readlink $dev)" = "../../$(basename "$(readlink -f $dev)")" ] || die "udev has not made $dev: $(readlink $dev)"
  fi
  [ $mib != 400 ] || make_fs
  mount -t "$FS" $dev /mnt/d || die mount
  iogap -t 6s -pause 5ms -gap 100s /mnt/d/gap >/tmp/gap 2>&1 & g=$!
  mib=$((mib + 200)); read -r began _ </proc/uptime
  host blkctl volume resize pg ${mib}MiB >/dev/null || die resize
  until [ "$(blockdev --getsize64 $dev)" = $((mib << 20)) ]; do
    read -r now _ </proc/uptime; [ "${now%.*}" -lt $((${began%.*} + 30)) ] || die "the device has $(blockdev --getsize64 $dev) bytes"
    sleep 0.1
  done
  resize2fs $dev >/tmp/resize2fs 2>&1 || { cat /tmp/resize2fs; die resize2fs; }
  wait $g || { cat /tmp/gap; die iogap; }
  dd if=/dev/zero of=/mnt/d/big bs=1M count=$((mib - 150)) conv=fsync 2>/dev/null || die "what was added cannot be written"
  t "${ATTACH:-direct}: $(df -m /mnt/d | awk 'NR==2 {print $2}') MiB of $mib, $(grep longest /tmp/gap | sed 's/iogap: //'), $dev -> $(readlink $dev)"
  unharmed resize; rm /mnt/d/big
  umount /mnt/d; check_fs; blkctl detach pg >/dev/null
done
t "PASS resize"
