# postgres.sh - PostgreSQL on /mnt/d, and what checks it (sourced, after guest.sh).
# pgbench runs its usual transaction, and each client counts its own in the table done. Its log, on a disk in memory, has what was
# reported as committed.
data=/mnt/d/postgres
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); export PATH PGUSER=postgres PGHOST=/tmp
grep -q ^postgres: /etc/passwd || echo 'postgres:x:70:70::/tmp:/bin/sh' >>/etc/passwd
as() { su postgres -c "$*"; }
q() { psql -qAtX -v ON_ERROR_STOP=1; }

pg_create() {
  mkdir -m 700 $data; chown 70:70 $data
  as "initdb --no-sync -D $data -A trust --data-checksums --locale=C -E UTF8" >/tmp/initdb 2>&1 || { cat /tmp/initdb; die "initdb"; }
  cat >>$data/postgresql.conf <<C
listen_addresses = '*'
unix_socket_directories = '/tmp'
shared_buffers = 16MB
max_wal_size = 64MB
checkpoint_timeout = 30s
C
  echo 'host all all 10.9.0.0/24 trust' >>$data/pg_hba.conf
  sync
}
pg_start() { as "pg_ctl -w -t 120 -D $data -l /tmp/postgres.log start" >/tmp/pg_ctl 2>&1 || { cat /tmp/pg_ctl; die "PostgreSQL does not start"; }; }
# pg_stop: pg_ctl returns when the postmaster has removed its file, and has still to end.
pg_stop() {
  pg=$(head -n 1 $data/postmaster.pid)
  as "pg_ctl -w -t 120 -D $data -m fast stop" >/dev/null || die "PostgreSQL does not stop"
  while kill -0 "$pg" 2>/dev/null; do sleep 0.1; done
}
pg_fill() {
  pgbench -i -q -s 2 postgres >/tmp/fill 2>&1 || { cat /tmp/fill; die "pgbench -i"; }
  echo 'create table done (run int, client int, n int, primary key (run, client, n));' | q
  : >/tmp/reported
}
# postmaster: the process and when it began
postmaster() { sed -n '1p;3p' $data/postmaster.pid | tr '\n' ' '; }

cat >/tmp/transaction <<'S'
\set aid random(1, 100000 * :scale)
\set bid random(1, :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
\set n :n + 1
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
INSERT INTO done VALUES (:run, :client_id, :n);
END;
S
# load RUN SECONDS [CONNECTION]: transactions of four clients
load() {
  pgbench -n -f /tmp/transaction -D scale=2 -D run="$1" -D n=0 -c 4 -T "$2" -l --log-prefix=/tmp/log."$1" "${3:-postgres}" >/tmp/pgbench."$1" 2>&1
}
# reported RUN: keeps what was reported; "COUNT transactions, longest SECONDS s"
reported() {
  awk -v run="$1" '{print run "\t" $1 "\t" $2}' /tmp/log."$1".* >>/tmp/reported
  awk '{if ($3 > most) most = $3} END {printf "%d transactions, longest %.1f s\n", NR, most / 1e6}' /tmp/log."$1".*
}
# pg_check: what was reported is there, sums agree, structures are whole
pg_check() {
  q >/tmp/check <<'S' || { cat /tmp/check; die "DAMAGE: the database cannot be read"; }
create temp table reported (run int, client int, n int);
\copy reported from /tmp/reported
select (select count(*) from reported), (select count(*) from reported left join done d using (run, client, n) where d.n is null);
select count(distinct sum) from (select sum(abalance) from pgbench_accounts union all select sum(tbalance) from pgbench_tellers
  union all select sum(bbalance) from pgbench_branches union all select sum(delta) from pgbench_history) as sums;
S
  IFS='|' read -r all lost </tmp/check
  [ "$all" -gt 0 ] || die "pgbench reported no transaction"
  [ "$lost" = 0 ] || die "DAMAGE: $lost of $all transactions that were reported as committed are missing"
  [ "$(sed -n 2p /tmp/check)" = 1 ] || die "DAMAGE: the sums of the accounts disagree"
  pg_amcheck --install-missing --heapallindexed postgres >/tmp/amcheck 2>&1 || { cat /tmp/amcheck; die "DAMAGE: pg_amcheck"; }
}
# pg_check_stopped: the same of a database that does not run
pg_check_stopped() { pg_checksums --check -D $data >/tmp/checksums 2>&1 || { cat /tmp/checksums; die "DAMAGE: pg_checksums"; }; }
