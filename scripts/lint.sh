#!/bin/sh
# Formatting, line length, vet and staticcheck. No warning is left standing.
set -eu
PATH=$PATH:/usr/local/go/bin
cd "$(dirname "$0")/.."
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not formatted by gofmt:" >&2
	echo "$unformatted" >&2
	exit 1
fi
# As make builds: what that has compiled isn't compiled again.
export GOFLAGS="${GOFLAGS:-} -trimpath"
go vet ./...
go tool -modfile=tools/go.mod staticcheck -checks 'all,-ST1000,-ST1005,-ST1020,-ST1021,-ST1022' ./...
