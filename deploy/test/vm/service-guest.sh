# Two guests that stand for the machines of n1 and n2. On each a manager of the service of pg runs: the attached device, ext4 and
# PostgreSQL. FAULT=die: the machine of n1 dies under load, its blkd and its guest; n2 takes the volume over, replays the journals and serves.
# FAULT=move: the service is moved to n2 in order, under load, and back; then PostgreSQL does not stop on n1, and n2 takes the volume over when its
# time is up. n2 has the clients, and checks.
. /lab/guest.sh
. /lab/postgres.sh
n1_at="host=10.9.0.1 dbname=postgres connect_timeout=3 keepalives_idle=1 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=3000"

mkdir -p /etc/blkd/services
cat >/etc/blkd/services/pg.toml <<C
volume = "pg"
takeover_after = "60s"

[[step]]
name = "ext4"
start = "grep -q ' /mnt/d ' /proc/mounts || mount -t ext4 $dev /mnt/d"
stop = "! grep -q ' /mnt/d ' /proc/mounts || umount /mnt/d"
status = "grep -q ' /mnt/d ext4 rw' /proc/mounts"

[[step]]
name = "postgres"
start = "su postgres -c 'pg_ctl -D $data status || pg_ctl -w -t 120 -D $data -l /tmp/postgres.log start'"
stop = "sh -c '. /lab/guest.sh; . /lab/postgres.sh; ! as pg_ctl -D $data status || pg_stop'"
status = "su postgres -c 'pg_ctl -D $data status'"
start_timeout = "3m"
stop_timeout = "15s"
C
manage() { blkctl service run pg --name "n$NODE" >/tmp/service.log 2>&1 & manager=$!; }
# known FIELD: what the manager's file says
known() { sed -n "s/.*\"$1\": \"\{0,1\}\(.*[^\",]\)\"\{0,1\},*$/\1/p" /run/blkd/service/pg.json 2>/dev/null; }
phase() { [ "$(known phase)" = "$1" ]; }
mounted() { grep -q ' /mnt/d ' /proc/mounts; }
# rests: nothing of it is on this machine
rests() { phase idle && ! mounted && ! pidof postgres >/dev/null && [ ! -e $dev ] && [ ! -e /run/blkd/service/pg.env ] && [ -z "$(cat /sys/block/nbd*/backend 2>/dev/null)" ]; }
on_n1() { echo 'select 1' | psql -qAtX "$n1_at" >/dev/null 2>&1; }
await() { # await SECONDS COMMAND...
  last=$(($(date +%s) + $1)); shift
  until "$@"; do [ "$(date +%s)" -lt $last ] || { cat /tmp/service.log; die "still not: $*"; }; sleep 0.1; done
}
now() { read -r up _ </proc/uptime; echo "$up"; }
since() { awk "BEGIN {printf \"%.1f\", $(now) - $1}"; }
# ended LOAD PROCESS WHERE: the clients have noticed, and what was reported to them counts
ended() { wait "$2" && die "the clients of $3 noticed nothing"; t "on $3: $(reported "$1")"; }

n1() {
  trap '[ $? = 0 ] || host kill 2' EXIT # it would wait
  attach --holder n1 >/dev/null || die "attach"
  make_fs; mount -t ext4 $dev /mnt/d; pg_create; umount /mnt/d; blkctl detach pg >/dev/null || die "detach"
  manage; host blkctl service enable pg --on n1,n2 >/dev/null || die "enable"
  await 120 phase running; pg_fill; t "n1 runs the service: attachment $(known attachment)"
  barrier serves; [ "$FAULT" = move ] || sleep 600

  barrier moved; await 60 rests; unharmed_since_boot; t "n1 has nothing of it any more"; barrier rests
  barrier back; phase running || die "n1 does not run it"
  barrier loaded; killall -STOP postgres; barrier hangs
  await 60 phase stuck; t "n1 is stuck: $(known error)"; barrier stuck
  barrier taken
  await 30 gone; killall -CONT postgres
  await 120 rests; t "n1 woke up, and has nothing of it any more"; barrier over
  kill $manager; wait $manager || die "the manager ends with $?: $(tail -n 5 /tmp/service.log)"
}
gone() { [ ! -e $dev ] && [ ! -e /run/blkd/attach/pg.json ]; }
unharmed_since_boot() { ! dmesg | grep -E 'I/O error|EIO|aborted|Remounting' || die "the kernel saw errors"; }

n2() {
  trap '[ $? = 0 ] || host kill 1' EXIT # it would sleep on
  manage; barrier serves
  phase running && die "n2 runs it, too"
  : >/tmp/reported
  load 1 3600 "$n1_at" & app=$!
  sleep 6; "fault_$FAULT"
  pg_check; load 9 6 || die "pgbench: $(tail -n 3 /tmp/pgbench.9)"
  t "on n2: $(reported 9)"; pg_check
  kill $manager; wait $manager || die "the manager ends with $?: $(tail -n 5 /tmp/service.log)"
  ! mounted || die "it is mounted still"
  attach >/dev/null || die "the volume was not given up"; check_fs; mount -t ext4 $dev /mnt/d; pg_check_stopped; umount /mnt/d
  t "PASS service, $FAULT: $all transactions were reported, none is missing; pg_amcheck, pg_checksums and fsck find nothing"
}

fault_die() {
  host kill 1; host node kill 1; end=$(now)
  await 120 phase running
  t "n2 runs the service $(since "$end") s after the machine of n1 died: attachment $(known attachment)"
  dmesg | grep -E 'EXT4-fs.*recovery complete' || die "ext4 had no journal to replay: the file system was not in use"
  grep -E 'not properly shut down|redo done' /tmp/postgres.log || die "PostgreSQL had nothing to recover"
  ended 1 $app n1
}

# move_to NODE: tells after how long it has the volume
move_to() { begin=$(now); host blkctl service move pg --to "$1" --timeout 2m >/dev/null || die "move"; has=$(since "$begin"); }

fault_move() {
  move_to n2; await 120 phase running
  t "n2 has the volume $has s after the command, and serves after $(since "$begin") s"
  ended 1 $app n1
  ! dmesg | grep -E 'EXT4-fs.*recovery complete' || die "ext4 was not unmounted in order"
  ! grep 'not properly shut down' /tmp/postgres.log || die "PostgreSQL was not stopped in order"
  barrier moved; barrier rests; pg_check

  load 2 3600 & app=$!
  sleep 6; move_to n1; await 120 on_n1
  t "n1 has the volume $has s after the command, and serves after $(since "$begin") s"
  ended 2 $app n2; await 10 rests
  PGHOST=10.9.0.1 pg_check; t "all $all transactions of n1 and n2 are there"
  barrier back

  load 3 3600 "$n1_at" & app=$!
  sleep 6; barrier loaded; barrier hangs; begin=$(now)
  host blkctl service move pg --to n2 --timeout 1s >/dev/null && die "n2 has the volume at once"
  barrier stuck; phase waiting || die "n2 does not wait: $(known phase)"
  await 240 phase running; t "n2 runs the service $(since "$begin") s after n1 should have stopped it"
  barrier taken; ended 3 $app n1; barrier over
}
n$NODE
