# Guest: PostgreSQL on a volume of the host's cluster, under pgbench, while the node that is primary is killed, KILLS times, and then,
# HANDOVERS times, gives the volume to another one.
# No transaction that was reported as committed may be missing, no page damaged, and the database must not have been restarted.
. /lab/guest.sh
. /lab/postgres.sh

t "$(attach)" || die "attach"
make_fs; mount -t "$FS" $dev /mnt/d || die mount
pg_create; pg_start; pg_fill
dmesg -c >/dev/null
began=$(postmaster); t "PostgreSQL runs: $(postgres --version)"
round=0
for f in $(yes kill | head -n "${KILLS:-0}") $(yes promote | head -n "${HANDOVERS:-0}"); do
  round=$((round + 1))
  load $round "${SECONDS_EACH:-8}" & w=$!
  sleep 2; p=$(primary)
  case $f in
    kill)    host node kill "$p"; sleep 2; host node start "$p";;
    promote) host blkctl promote pg >/dev/null;;
  esac
  wait $w || { cat /tmp/pgbench.$round; die "$f $round: pgbench"; }
  level
  t "$f $round: $(reported $round); primary was n$p, is n$(primary)"
  unharmed "$f $round"
done
[ "$(postmaster)" = "$began" ] || die "PostgreSQL was restarted: $(postmaster), before $began"
if grep -E 'PANIC|FATAL|ERROR|terminated by signal|not properly shut down' /tmp/postgres.log; then die "PostgreSQL saw errors"; fi
pg_check; pg_stop; pg_check_stopped
t "$all transactions were reported, none is missing; pg_amcheck and pg_checksums find nothing; postmaster $began all the time"
umount /mnt/d; check_fs
blkctl detach pg || die "detach"
t "PASS postgres"
