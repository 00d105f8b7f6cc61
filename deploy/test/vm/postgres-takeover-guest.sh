# Two guests, one volume with PostgreSQL. The host of the database dies (FAULT=die) or stands still (FAULT=hang) under load; the other
# one takes the volume over, recovers the database and serves: it tells after how long. A host that stood still wakes up, with nothing
# on it that knows of the takeover, and writes on: that must fail, and must not reach the volume.
. /lab/guest.sh
. /lab/postgres.sh
near="host=10.9.0.1 dbname=postgres connect_timeout=3 keepalives_idle=1 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=3000"

db1() {
  attach --holder db1 || die "attach"
  make_fs; mount -t "$FS" $dev /mnt/d; pg_create; pg_start; pg_fill
  barrier serves
  # The kernel has its connection to the primary; without the agent nobody ends it.
  kill -9 "$(agent)"
  n=0; while echo 'update pgbench_accounts set abalance = abalance; checkpoint;' | q 2>/tmp/err; do n=$((n + 1)); [ $n -lt 1000 ] || die "db1 writes on"; done
  t "db1 woke up; PostgreSQL: $(head -1 /tmp/err)"
  grep -m3 -E 'Input/output error|Read-only file system' /tmp/postgres.log || die "PostgreSQL ended, but not because its writes were refused"
  attach --holder db1 2>/tmp/err && die "db1 attaches again"
  grep -q db2 /tmp/err || { cat /tmp/err; die "the refusal names nobody"; }
  t "PASS db1: $(head -1 /tmp/err)"
}

db2() {
  trap '[ $? = 0 ] || host kill 1' EXIT # it would write on
  barrier serves
  : >/tmp/reported
  load 1 3600 "$near" & app=$!
  sleep 6
  case $FAULT in die) host kill 1;; hang) host pause 1;; esac; read -r end _ </proc/uptime
  since() { read -r now _ </proc/uptime; awk "BEGIN {printf \"%.1f\", $now - $end}"; }
  attach --holder db2 --takeover || die "takeover"
  has=$(since); mount -t "$FS" $dev /mnt/d || die "mount"
  mounted=$(since); pg_start; echo 'insert into done values (0, 0, 0);' | q || die "insert"
  t "db2 has the volume $has s after db1's end, the file system after $mounted s, and serves after $(since) s"
  wait $app && die "the clients of db1 noticed nothing"
  t "on db1: $(reported 1)"
  pg_check; t "all $all transactions that db1 had reported are there"
  if [ "$FAULT" = hang ]; then host cont 1; t "db1 goes on"; fi
  load 2 "${SECONDS_EACH:-15}" || die "DAMAGE: pgbench: $(tail -n 3 /tmp/pgbench.2)"
  t "on db2: $(reported 2)"
  # What db1 wrote shows on the volume, not in the memory of this host.
  pg_stop; umount /mnt/d; blockdev --flushbufs $dev
  check_fs; mount -t "$FS" $dev /mnt/d || die "mount again"
  pg_check_stopped; pg_start; pg_check; pg_stop; umount /mnt/d
  t "PASS db2: $all transactions were reported, none is missing; pg_amcheck, pg_checksums and fsck find nothing"
}
db$NODE
