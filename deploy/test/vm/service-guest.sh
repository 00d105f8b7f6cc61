# Two guests that stand for the machines of n1 and n2. On each a manager of the service of pg runs: the attached device, ext4 and
# PostgreSQL. The machine of n1 dies under load, its blkd and its guest; n2 takes the volume over, replays the journals and serves.
. /lab/guest.sh
. /lab/postgres.sh
near="host=10.9.0.1 dbname=postgres connect_timeout=3 keepalives_idle=1 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=3000"

mkdir -p /etc/blkd/services
cat >/etc/blkd/services/pg.toml <<C
volume = "pg"

[[step]]
name = "ext4"
start = "grep -q ' /mnt/d ' /proc/mounts || mount -t ext4 $dev /mnt/d"
stop = "! grep -q ' /mnt/d ' /proc/mounts || umount /mnt/d"
status = "grep -q ' /mnt/d ext4 rw' /proc/mounts"

[[step]]
name = "postgres"
start = "su postgres -c 'pg_ctl -D $data status || pg_ctl -w -t 120 -D $data -l /tmp/postgres.log start'"
stop = "sh -c '. /lab/guest.sh; . /lab/postgres.sh; [ ! -e $data/postmaster.pid ] || pg_stop'"
status = "su postgres -c 'pg_ctl -D $data status'"
start_timeout = "3m"
C
manage() { blkctl service run pg --name "n$NODE" >/tmp/service.log 2>&1 & manager=$!; }
serves() { grep -q '"phase": "running"' /run/blkd/service/pg.json 2>/dev/null; }
await() { # await SECONDS COMMAND...
  last=$(($(date +%s) + $1)); shift
  until "$@"; do [ "$(date +%s)" -lt $last ] || { cat /tmp/service.log; die "still not: $*"; }; sleep 0.1; done
}

n1() {
  attach --holder n1 >/dev/null || die "attach"
  make_fs; mount -t ext4 $dev /mnt/d; pg_create; umount /mnt/d; blkctl detach pg >/dev/null || die "detach"
  manage; host blkctl service enable pg --on n1,n2 >/dev/null || die "enable"
  await 120 serves; pg_fill; t "n1 runs the service: $(sed -n 's/^BLKD_ATTACHMENT=//p' /run/blkd/service/pg.env)"
  barrier serves; sleep 600
}

n2() {
  trap '[ $? = 0 ] || host kill 1' EXIT # it would sleep on
  manage; barrier serves
  serves && die "n2 runs it, too"
  : >/tmp/reported
  load 1 3600 "$near" & app=$!
  sleep 6; host kill 1; host node kill 1; read -r end _ </proc/uptime
  await 120 serves; read -r now _ </proc/uptime
  t "n2 runs the service $(awk "BEGIN {printf \"%.1f\", $now - $end}") s after the machine of n1 died: $(sed -n 's/^BLKD_ATTACHMENT=//p' /run/blkd/service/pg.env)"
  dmesg | grep -E 'EXT4-fs.*recovery complete' || die "ext4 had no journal to replay: the file system was not in use"
  grep -E 'not properly shut down|redo done' /tmp/postgres.log || die "PostgreSQL had nothing to recover"
  wait $app && die "the clients of n1 noticed nothing"
  t "on n1: $(reported 1)"
  pg_check; load 2 6 || die "pgbench: $(tail -n 3 /tmp/pgbench.2)"
  t "on n2: $(reported 2)"; pg_check
  kill $manager; wait $manager || die "the manager ends with $?: $(tail -n 5 /tmp/service.log)"
  ! grep -q ' /mnt/d ' /proc/mounts || die "it is mounted still"
  attach >/dev/null || die "the volume was not given up"; check_fs; mount -t ext4 $dev /mnt/d; pg_check_stopped; umount /mnt/d
  t "PASS service: $all transactions were reported, none is missing; pg_amcheck, pg_checksums and fsck find nothing"
}
n$NODE
