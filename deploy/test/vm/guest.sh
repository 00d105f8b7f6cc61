# guest.sh - what the guests' scripts share (sourced): the volume pg of the host's cluster, attached with the options ATTACH,
# as a file system of kind FS on /mnt/d.
set -e
export BLKCTL_NODE=$NODES_AT BLKCTL_INSECURE=true
FS=${FS:-ext4} dev=/dev/blkd/by-name/pg
modprobe nbd; modprobe "$FS"; mkdir -p /mnt/d
t() { read -r u _ </proc/uptime; echo "[$u] $*"; }
die() { t "FAIL: $*"; dmesg | tail -n 30; tail -n 30 /run/blkd/attach/*.log /tmp/postgres.log 2>/dev/null; exit 1; }
# What does not end tells how it stands before the lab ends it.
(sleep "$TELL"; t "FAIL: not at its end"; dmesg | tail -n 30; tail -n 30 /run/blkd/attach/*.log; cat /run/blkd/attach/*.json; ps) &
primary() { host primary pg; }
level() { host blkctl wait pg --for=uptodate --timeout 60s >/dev/null; }
# attach OPTIONS: with ATTACH besides
attach() { blkctl attach pg $ATTACH "$@"; }
agent() { sed -n 's/.*"pid": \([0-9]*\).*/\1/p' /run/blkd/attach/pg.json; }
# make_fs, check_fs: the file system is made, and looked through while it is not mounted
make_fs() { case $FS in ext4) mkfs.ext4 -q -F $dev;; xfs) mkfs.xfs -q -f $dev;; esac >/tmp/mkfs 2>&1 || { cat /tmp/mkfs; die "mkfs"; }; }
check_fs() { case $FS in ext4) e2fsck -fn $dev;; xfs) xfs_repair -n $dev;; esac >/tmp/fsck 2>&1 || { cat /tmp/fsck; die "DAMAGE: the file system"; }; }
# unharmed: the kernel has seen no error since the last call
unharmed() {
  dmesg -c >/tmp/dmesg
  if grep -E 'I/O error|EIO|aborted|Remounting|shut ?down|JBD2:.*error|XFS.*error|critical' /tmp/dmesg; then die "$1: the kernel saw errors"; fi
  grep -q " $FS rw" /proc/mounts || die "$1: not mounted for writing any more"
}
