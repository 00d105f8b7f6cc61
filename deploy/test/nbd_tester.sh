#!/usr/bin/env bash
# nbd_tester.sh: print the path of nbd's own test client, built from Debian's source
# package nbd. It is built once, into a cache outside of this tree; NBD_TESTER names one
# that is there already. Its trace file integrity-test.tr lies beside it.
#
# Exit code 77, and the reason on standard error, when it cannot be had here.
set -euo pipefail

unavailable() {
	echo "nbd-tester-client cannot be built here: $*" >&2
	exit 77
}

if [ -n "${NBD_TESTER:-}" ]; then
	echo "$NBD_TESTER"
	exit
fi
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/blkd-test
if [ -x "$cache/nbd-tester-client" ] && [ -s "$cache/integrity-test.tr" ]; then
	echo "$cache/nbd-tester-client"
	exit
fi

for program in apt-get gcc pkg-config xz; do
	command -v "$program" >/dev/null || unavailable "$program is not installed"
done
libs=$(pkg-config --cflags --libs glib-2.0 gnutls 2>/dev/null) ||
	unavailable "install libglib2.0-dev and libgnutls28-dev"

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
mkdir -p "$build/parts" "$build/lists/partial"

# sources SUITE: the system's package sources, as source-package entries; with SUITE
# those of another release. The system's own configuration is not touched.
sources() {
	rm -f "$build"/parts/*
	for file in /etc/apt/sources.list.d/*.sources; do
		[ -f "$file" ] && sed 's/^Types:.*/Types: deb-src/' "$file" >"$build/parts/$(basename "$file")"
	done
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -f "$file" ] && sed -n 's/^deb /deb-src /p' "$file" >"$build/parts/$(basename "$file")"
	done
	if [ -n "$1" ]; then
		sed -i -E "s/^Suites:.*/Suites: $1/; s/^(deb-src +(\[[^]]*\] +)?[^ ]+) +[^ ]+/\1 $1/" "$build"/parts/*
	fi
}

# fetch SUITE: download the source package.
fetch() {
	sources "$1"
	local apt=(timeout 120 apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$build/parts"
		-o Dir::State::lists="$build/lists" -o APT::Sandbox::User= -o Acquire::Retries=2)
	# An entry may not exist for that release (its security archive, say): go on without.
	(cd "$build" && { "${apt[@]}" update || true; } && "${apt[@]}" source --download-only nbd) >"$build/log" 2>&1 || true
	ls "$build"/nbd_*.orig.tar.* >/dev/null 2>&1
}
# Some mirrors no longer hold the source of an older release.
fetch "" || fetch trixie || unavailable "source package nbd: $(grep '^E:' "$build/log" | sed -E 's#[a-z]+://[^/ ]+##' | head -n 1)"

tar -xf "$build"/nbd_*.orig.tar.* -C "$build"
src=$(echo "$build"/nbd-[0-9]*)
# What configure would find; it wants bison, which the client does not need.
cat >"$src/config.h" <<'H'
#define HAVE_GNUTLS 1
#define PACKAGE_VERSION "0"
#define VERSION "0"
#define SIZEOF_UNSIGNED_SHORT_INT 2
#define SIZEOF_UNSIGNED_INT 4
#define SIZEOF_UNSIGNED_LONG_INT 8
#define SIZEOF_UNSIGNED_LONG_LONG_INT 8
H
mkdir -p "$cache"
# shellcheck disable=SC2086 # $libs is a list of options
(cd "$src" && gcc -w -I. -o "$cache/nbd-tester-client" tests/run/nbd-tester-client.c cliserv.c crypto-gnutls.c buffer.c $libs) \
	>"$build/log" 2>&1 || unavailable "$(grep -m1 error "$build/log")"
cp "$src/tests/run/integrity-test.tr" "$cache/"
echo "$cache/nbd-tester-client"
