#!/bin/sh
# Runs every fuzz target for a time: fuzz.sh 10s.
set -eu
PATH=$PATH:/usr/local/go/bin
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for file in $(grep -l -r '^func Fuzz' --include='*_test.go' .); do
	dir=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$file"); do
		echo "$dir $target"
		if go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 1s "$dir" >"$log" 2>&1; then
			tail -n 1 "$log"
		elif grep -q 'context deadline exceeded' "$log" && ! grep -q -E 'Failing input|panic' "$log"; then
			echo "no finding; the time ended in the middle of an input"
		else
			cat "$log" >&2
			exit 1
		fi
	done
done
