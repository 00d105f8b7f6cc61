#!/bin/sh
# Regenerates the Go code of every .proto file. Needs protoc (Debian package
# protobuf-compiler); the Go plugins are built into a temporary directory.
set -eu
cd "$(dirname "$0")/../.."

if ! command -v protoc >/dev/null; then
	echo "generate.sh: protoc is missing; run: apt-get install protobuf-compiler" >&2
	exit 1
fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN=$bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

PATH=$bin:$PATH protoc \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	metadata/metapb/*.proto internal/api/*.proto
