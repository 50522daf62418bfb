#!/bin/sh
# Runs every fuzz target for a time: fuzz.sh 10s.
set -eu
PATH=$PATH:/usr/local/go/bin
for file in $(grep -l -r '^func Fuzz' --include='*_test.go' .); do
	dir=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$file"); do
		echo "$dir $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$dir" | tail -n 1
	done
done
