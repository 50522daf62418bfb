#!/bin/sh
# Formatting, vet and staticcheck. No warning is left standing.
set -eu
PATH=$PATH:/usr/local/go/bin
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not formatted by gofmt:" >&2
	echo "$unformatted" >&2
	exit 1
fi
go vet ./...
go run honnef.co/go/tools/cmd/staticcheck@v0.7.0 -checks 'all,-ST1000,-ST1005,-ST1020,-ST1021,-ST1022' ./...
