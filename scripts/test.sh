#!/bin/sh
# Runs every test, with the race detector. They start real containers and daemons:
# that takes root. A test that is skipped is a failure, since it shows nothing.
set -eu
PATH=$PATH:/usr/local/go/bin
if [ "$(id -u)" != 0 ]; then
	echo "kiln: the tests start containers; run them as root" >&2
	exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
go test -race -p 2 -timeout 20m -v ./... >"$log" 2>&1 || status=$?
grep -a -E '^(ok|FAIL|panic|\?|--- FAIL|    --- FAIL)' "$log" || true
if [ "$status" != 0 ]; then
	grep -a -v -E '^(=== |ok|\?|PASS)|^ *--- PASS' "$log" | head -n 1000
fi
if grep -a -q -E '^ *--- SKIP' "$log"; then
	grep -a -E -A2 '^ *--- SKIP' "$log"
	echo "kiln: a skipped test shows nothing" >&2
	status=1
fi
passed=$(grep -a -c -E '^ *--- PASS' "$log" || true)
failed=$(grep -a -c -E '^ *--- FAIL' "$log" || true)
echo "$passed passed, $failed failed"
exit "$status"
