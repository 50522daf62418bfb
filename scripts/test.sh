#!/bin/sh
# Runs every test, with the race detector. They start real containers and daemons:
# that takes root. A test that is skipped is a failure, since it shows nothing.
# Arguments go to go test, as in: scripts/test.sh -run 'TestScripts/publish' ./cmd/kiln
set -eu
PATH=$PATH:/usr/local/go/bin
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
	echo "kiln: the tests start containers; run them as root" >&2
	exit 1
fi
# What takes longest comes first: else it runs alone at the end.
[ $# -gt 0 ] || set -- ./cmd/kiln ./internal/archive ./internal/daemon ./internal/volume ./internal/server \
	./internal/store ./internal/box ./test/faults ./internal/delta ./...
events=$(mktemp)
trap 'rm -f "$events"' EXIT
status=0
# Else each of thousands of short processes waits a second before it ends.
export GORACE="${GORACE:-atexit_sleep_ms=0}"
# The compiler's time: most of sqlite's is for optimizations, and make lint has its say of
# vet's. What tests build of kiln itself is as make builds it.
export CGO_CFLAGS="${CGO_CFLAGS:--O1 -g0}"
# Three packages on two cores, since many tests wait: for a system that boots, for an
# address that is looked for twice, for a server that stalls.
# -count=1: some tests build kiln themselves, which Go's cache of results doesn't see.
go tool -modfile=tools/go.mod gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg \
	--jsonfile "$events" -- -race -vet=off -p 3 -timeout 30m -count=1 "$@" || status=$?
count() { grep -c "\"Action\":\"$1\".*\"Test\":" "$events" || true; }
passed=$(count pass) failed=$(count fail) skipped=$(count skip)
if [ "$skipped" != 0 ]; then
	grep "\"Action\":\"skip\".*\"Test\":" "$events" | sed 's/.*"Package":"\([^"]*\)","Test":"\([^"]*\)".*/skipped: \1 \2/'
	echo "kiln: a skipped test shows nothing" >&2
	status=1
fi
echo "$passed passed, $failed failed"
exit "$status"
