# blkd: build, test, measure. "make help" lists the targets.

GO       ?= go
FUZZTIME ?= 60s
SEEDS    ?= 100000
KILLS    ?= 50
TIME     ?= 60s
VERSION  ?=

# Binaries are static. Only the race detector needs a C compiler.
export CGO_ENABLED = 0
RACE = CGO_ENABLED=1 $(GO) test -race

# Without the trace pages of gRPC the linker can drop 4 MB that nobody calls.
TAGS    = grpcnotrace
# Pebble and other libraries that are not on the data path are not worth what
# inlining adds.
GCFLAGS = github.com/...=-l
LDFLAGS = -s -w $(if $(VERSION),-X blkd/internal/version.Number=$(VERSION))

# What the tests use besides Go: gcc for the race detector; the others are NBD
# clients, servers to compare with, file systems, what nbd's own test client is
# built from, networks that can be cut, and guests with a kernel and a database.
PACKAGES = gcc libc6-dev fio nbdkit nbd-server libnbd-bin python3-libnbd fuse3 qemu-utils e2fsprogs util-linux \
	nbd-client pkg-config libglib2.0-dev libgnutls28-dev dpkg-dev xz-utils procps \
	iproute2 etcd-server fence-agents curl haproxy keepalived resource-agents libxml2-utils \
	qemu-system-x86 busybox-static zstd lz4 xfsprogs postgresql psmisc dash

.DEFAULT_GOAL := build

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## static binaries: bin/blkd, bin/blkctl, bin/blksim
	$(GO) build -trimpath -tags $(TAGS) -gcflags '$(GCFLAGS)' -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: witness
witness: ## bin/blkd-witness: blkd, built for little space instead of speed
	$(GO) build -trimpath -tags $(TAGS),noasm -gcflags all=-l -ldflags '$(LDFLAGS)' -o bin/blkd-witness ./cmd/blkd

.PHONY: size
size: witness ## fails if bin/blkd-witness has grown to 20 MB: a witness shall fit anywhere
	@bytes=$$(stat -c %s bin/blkd-witness); echo "bin/blkd-witness has $$bytes bytes"; test $$bytes -lt 20000000

.PHONY: test
test: ## what must pass: vet, tests with the race detector, planted bugs, real processes, interop if its tools are there
	$(GO) vet ./...
	$(MAKE) --no-print-directory -j2 -O nodes packages
	$(MAKE) --no-print-directory -j2 -O mutants processes
	@if command -v nbdinfo >/dev/null; then \
		$(MAKE) --no-print-directory interop; \
	else \
		echo "make interop is left out, for want of nbdinfo and others: make deps installs them"; \
	fi

.PHONY: nodes
nodes: ## whole nodes with the race detector: they wait more than they compute, so it goes beside packages
	$(RACE) -timeout 10m ./internal/node

.PHONY: packages
packages: ## all other packages, with the race detector and the short forms of long runs
	cd internal/third_party/errors && $(GO) test ./...
	$(RACE) -p 2 -timeout 10m $$($(GO) list ./... | grep -v -e '/internal/node$$' -e '/blockdev$$' -e '/internal/sim$$' -e '/internal/model$$')
	$(RACE) -short -timeout 10m ./internal/sim ./internal/model
	$(GO) test -timeout 10m ./internal/sim ./internal/model
	$(RACE) -timeout 10m ./blockdev -crash.seeds=200
	$(GO) test -run '^TestStoreCrash$$' ./blockdev -crash.seeds=5000
	$(GO) test -run '^Test(CoreCrash|DetectorCallsNoLivingNodeDown)$$' ./metadata -crash.seeds=500 -detector.hours=6

.PHONY: processes
processes: build ## the short forms of what is tested with clusters of real processes
	$(MAKE) --no-print-directory cluster
	$(MAKE) --no-print-directory failover-short
	deploy/test/drill.sh handover kill-primary --max-stall 1m
	$(MAKE) --no-print-directory ocf
	$(MAKE) --no-print-directory service
	$(MAKE) --no-print-directory restore
	@if [ $$(id -u) = 0 ] && command -v ip >/dev/null; then \
		$(MAKE) --no-print-directory failover-partition-short; \
	else \
		echo "make failover-partition is left out: it needs root and iproute2"; \
	fi
	@if [ $$(id -u) = 0 ] && command -v ip >/dev/null && command -v curl >/dev/null && command -v haproxy >/dev/null && command -v keepalived >/dev/null; then \
		$(MAKE) --no-print-directory endpoints; \
	else \
		echo "make endpoints is left out: it needs root, iproute2, curl, haproxy and keepalived"; \
	fi
	@if command -v pgbench >/dev/null && deploy/test/vm/build.sh >/dev/null; then \
		$(MAKE) --no-print-directory vm-short; \
	else \
		echo "make vm-short is left out: it needs what make deps installs, and a kernel's package from apt-get"; \
	fi

.PHONY: deps
deps: ## install the tools that tests use (Debian packages; says which)
	@missing=; for p in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok' || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then echo "everything is installed: $(PACKAGES)"; exit 0; fi; \
	echo "installing with apt-get:$$missing"; \
	if [ $$(id -u) != 0 ]; then echo "make deps: must run as root, e.g. sudo make deps" >&2; exit 1; fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing

.PHONY: interop
interop: build ## other NBD programs, file systems and kill -9 against bin/blkd
	BLKD=$(CURDIR)/bin/blkd deploy/test/interop.sh

.PHONY: fuzz
fuzz: ## each fuzzer for FUZZTIME (60s)
	@set -e; for file in $$(grep -rl --include='*_test.go' '^func Fuzz' . | sort); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
			echo "== $$(dirname $$file) $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
		done; \
	done

.PHONY: fuzz-short
fuzz-short: ## each fuzzer for 5 seconds
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5s

.PHONY: crash
crash: ## the store's crash tests with SEEDS (100000) seeds
	$(GO) test -run '^Test(Store|Replica)Crash$$' -timeout 60m -v ./blockdev -crash.seeds=$(SEEDS)

.PHONY: crash-metadata
crash-metadata: SEEDS = 10000
crash-metadata: ## the quorum's crash test with SEEDS (10000) seeds
	$(GO) test -run '^TestCoreCrash$$' -timeout 60m -v ./metadata -crash.seeds=$(SEEDS)

.PHONY: sim
sim: SEEDS = 1000
sim: ## simulated clusters with SEEDS (1000) seeds; what fails is cut down and kept
	$(GO) run ./cmd/blksim run --seeds $(SEEDS) --keep internal/sim/testdata/seeds

.PHONY: soak
soak: TIME = 4h
soak: ## simulated clusters for TIME (4h), from a seed that the date decides
	$(GO) build -o out/blksim ./cmd/blksim
	nice -n 15 out/blksim run --first $$(date +%Y%m%d)000000 --seeds 1000000000 --time $(TIME) --keep internal/sim/testdata/seeds

.PHONY: mutants
mutants: ## plant each bug of internal/mutant: the crash test must find it within 1,000 seeds
	$(GO) test -tags mutants -timeout 10m ./internal/mutant
	$(GO) test -tags mutants -run 'Mutants$$' -timeout 30m -v ./blockdev ./fencing ./metadata ./internal/sim ./internal/node ./internal/service

.PHONY: cluster-kill
cluster-kill: build ## kill -9 the leader of the metadata quorum KILLS (50) times under changes
	$(GO) run ./deploy/test/clusterkill -blkd bin/blkd -kills $(KILLS)

.PHONY: cluster-partition
cluster-partition: build ## are the metadata linearizable under partitions, for TIME (60s); needs root
	@mkdir -p out
	$(GO) run ./deploy/test/clusterpartition -blkd bin/blkd -out out -time $(TIME)
	$(GO) build -tags mutants -o out/blkd-mutants ./cmd/blkd
	$(GO) run ./deploy/test/clusterpartition -blkd out/blkd-mutants -out out -time $(TIME) -mutant quorum/stale-read

.PHONY: cluster-witness
cluster-witness: build ## two data nodes and a witness: any one may die, under writes
	$(GO) run ./deploy/test/clusterwitness -blkd bin/blkd

.PHONY: cluster
cluster: ## the short forms of cluster-kill, cluster-witness and, for root, cluster-partition
	$(MAKE) --no-print-directory cluster-kill KILLS=5
	$(MAKE) --no-print-directory cluster-witness
	@if [ $$(id -u) = 0 ] && command -v ip >/dev/null; then \
		$(MAKE) --no-print-directory cluster-partition TIME=15s; \
	else \
		echo "make cluster-partition is left out: it needs root and iproute2"; \
	fi

.PHONY: failover
failover: build ## kill, freeze and relieve primaries under load, KILLS (50) times, and measure what clients notice
	$(GO) run ./deploy/test/failover -blkd bin/blkd -kills $(KILLS)
	$(GO) run ./deploy/test/failover -blkd bin/blkd -layout ec:2+1 -only kill,promote,fio,losses -kills $(KILLS)
	$(GO) run ./deploy/test/failover -blkd bin/blkd -layout ec:4+2 -only fio,losses -kills $(KILLS)

.PHONY: failover-short
failover-short: build ## the same in a minute
	$(GO) run ./deploy/test/failover -blkd bin/blkd -kills 2 -promotions 5 -rounds 1 -frozen 2s -away 1s -slow 3s

.PHONY: failover-partition
failover-partition: build ## is a mirrored volume strictly linearizable under partitions; needs root
	$(GO) run ./deploy/test/failoverpartition -blkd bin/blkd -judge 3s
	@mkdir -p out
	$(GO) build -tags mutants -o out/blkd-mutants ./cmd/blkd
	for bug in replica/no-lease replica/keep-tail replica/few-seals; do \
		$(GO) run ./deploy/test/failoverpartition -blkd out/blkd-mutants -hold 2s -only alone,mute -mutant $$bug || exit; done

.PHONY: failover-partition-short
failover-partition-short: build ## the same in half a minute
	$(GO) run ./deploy/test/failoverpartition -blkd bin/blkd -hold 2s -flaps 3s -only alone,quorum,deaf,flap
	@mkdir -p out
	$(GO) build -tags mutants -o out/blkd-mutants ./cmd/blkd
	$(GO) run ./deploy/test/failoverpartition -blkd out/blkd-mutants -hold 2s -only alone -mutant replica/no-lease

.PHONY: endpoints
endpoints: build ## HAProxy and keepalived follow a volume; needs root and both
	$(GO) run ./deploy/test/endpoints -blkd bin/blkd

.PHONY: service
service: build ## services follow a volume, with real processes
	deploy/test/service.sh

.PHONY: restore
restore: build ## docs/manual/restore.md for a volume whose every replica is empty, step by step
	deploy/test/restore.sh

.PHONY: ocf
ocf: build ## the agents for Pacemaker under ocf-tester, and through a failover
	deploy/test/ocf.sh

.PHONY: pacemaker
pacemaker: build ## Pacemaker and Corosync themselves on three nodes, with ocf:blkd:volume; needs root and both
	deploy/test/pacemaker.sh

.PHONY: drill
drill: build ## blkctl check and all drills on a cluster of blkctl dev
	deploy/test/drill.sh all

.PHONY: vm
vm: vm-attach vm-postgres vm-service vm-ocf vm-qemu ## everything in guests with Debian's kernel

.PHONY: vm-attach
vm-attach: build ## attached devices through all failures of servers, in guests with Debian's kernel, a takeover, and a volume that grows
	deploy/test/vm/attach.sh --env FS=ext4 --env FAULTS="$(VM_FAULTS)"
	deploy/test/vm/attach.sh --env FS=xfs --env FAULTS="$(VM_FAULTS)"
	deploy/test/vm/attach.sh --env ATTACH=--relay --env FAULTS="$(VM_FAULTS)"
	deploy/test/vm/attach.sh --script takeover-guest.sh --guests 2
	deploy/test/vm/attach.sh --script resize-guest.sh --tools fio,udevadm

VM_FAULTS = kill promote stop restart agent agent-kill
# The guest has the host's PostgreSQL, and memory for it.
VM_POSTGRES = deploy/test/vm/attach.sh --tools postgresql --mem 1000 --size 500MiB

.PHONY: vm-postgres
vm-postgres: KILLS = 20
vm-postgres: build ## PostgreSQL on an attached device: its primary killed KILLS (20) times, its host dead or hung; and a planted bug
	$(VM_POSTGRES) --script postgres-guest.sh --env KILLS=$(KILLS)
	$(VM_POSTGRES) --script postgres-takeover-guest.sh --guests 2 --env FAULT=die
	$(VM_POSTGRES) --script postgres-takeover-guest.sh --guests 2 --env FAULT=hang
	$(VM_POSTGRES) --script postgres-takeover-guest.sh --guests 2 --env FAULT=hang --mutant replica/late-fence

.PHONY: vm-service
vm-service: build ## blkctl service with ext4 and PostgreSQL on an attached device: its machine dies; it is moved, and back; it does not stop
	$(VM_POSTGRES) --script service-guest.sh --guests 2 --env FAULT=die
	$(VM_POSTGRES) --script service-guest.sh --guests 2 --env FAULT=move

.PHONY: vm-ocf
vm-ocf: build ## ocf:blkd:attach with a real device: ocf-tester, and a group through failovers and to another guest
	deploy/test/vm/attach.sh --script ocf-guest.sh --guests 2 --tools fio,resource-agents

.PHONY: vm-qemu
vm-qemu: build ## a guest whose disk is a volume, by QEMU's NBD client, through failovers; and another boot
	deploy/test/vm/attach.sh --script qemu-guest.sh --disk-from 2 --env FAULTS="kill promote gateway"

.PHONY: vm-relay
vm-relay: build ## what a relay costs and gains: latency, and the wait when the primary is killed, beside a direct device
	deploy/test/vm/attach.sh --script relay-guest.sh

.PHONY: vm-short
vm-short: build ## the same in a minute: ext4 and PostgreSQL through a kill and a hand-over
	$(VM_POSTGRES) --script postgres-guest.sh --env KILLS=1 --env HANDOVERS=1 --env SECONDS_EACH=6

.PHONY: bench
bench: build ## everything under fio, with a verdict per target: one node, mirrors, and other NBD servers
	deploy/test/bench-nbd.sh

.PHONY: bench-nbd
bench-nbd: build ## one node only, beside qemu-nbd and nbdkit
	deploy/test/bench-nbd.sh -only disk,memory,tls,checksums

.PHONY: bench-curves
bench-curves: build ## how it scales with depth, block size, replicas, volumes and size
	deploy/test/bench-nbd.sh -only by-load,by-replicas,by-volumes,by-size

.PHONY: bench-go
bench-go: ## Go benchmarks of the data path
	$(GO) test -run '^$$' -bench . -benchmem ./blockdev ./replication ./nbd ./internal/env/... ./internal/socket

.PHONY: bench-quorum
bench-quorum: build ## compare the metadata quorum with three members of etcd
	@mkdir -p out
	$(GO) run ./deploy/test/clusterbench -blkd bin/blkd -dir out

.PHONY: lint
lint: ## gofmt, vet with every build tag, the rules of internal/arch, staticcheck
	@files=$$(git ls-files '*.go' | xargs gofmt -l); \
	if [ -n "$$files" ]; then echo "make fmt would change:"; echo "$$files"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags mutants ./...
	$(GO) test -count=1 ./internal/arch
	$(GO) run honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK) -checks inherit,-SA2001 ./...

# A release that knows the Go version of go.mod.
STATICCHECK = v0.8.2

.PHONY: fmt
fmt: ## format the Go code
	git ls-files '*.go' | xargs gofmt -w

.PHONY: proto
proto: ## regenerate internal/api from control.proto
	internal/api/generate.sh

.PHONY: clean
clean: ## remove what build and benchmarks left
	rm -rf bin out
