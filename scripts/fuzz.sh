#!/bin/bash
# Runs every fuzz target for a time, and says how many inputs each was given:
# fuzz.sh 10s. A target that hardly runs finds nothing: fewer inputs than the floor
# are a failure, however slow the machine.
# fuzz.sh 500x gives each that many, made of its examples without a look at what they
# reach: that takes instruments in every package, which are all compiled once more then.
set -euo pipefail
PATH=$PATH:/usr/local/go/bin
cd "$(dirname "$0")/.."
time=${1:-10s}
floor=100 # inputs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case "$time" in
*x) build=(-trimpath) ;; # what make has compiled will do
*) build=(-fuzz .) ;;
esac

fuzz() { # directory, target, time or a number of inputs as in 100x
	(cd "$1" && timeout 120 "$work/test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$3" -test.parallel 1 \
		-test.fuzzminimizetime 10x -test.fuzzcachedir "$work/corpus") >"$work/log" 2>&1 && return
	# The engine calls it a failure when the time ends in the middle of an input.
	grep -q 'context deadline exceeded' "$work/log" && ! grep -q -E 'Failing input|panic' "$work/log" && return
	grep -v '^fuzz: elapsed' "$work/log" >&2
	echo "kiln: $1 $2 failed; the last count: $(inputs) inputs" >&2
	exit 1
}
inputs() { sed -n 's/^fuzz: elapsed: .*execs: \([0-9]*\) .*/\1/p' "$work/log" | tail -n 1; }

package() { # directory
	work=$work/${1//\//_}
	mkdir "$work"
	go test -c -vet=off "${build[@]}" -o "$work/test" "$1"
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$1"/*_test.go); do
		fuzz "$1" "$target" "$time"
		n=$(inputs)
		rate=$(sed -n 's/^fuzz: elapsed: .*(\([0-9]*\)\/sec).*/\1/p' "$work/log" | sort -n | tail -n 1)
		printf '%s %s: %s inputs, %s/s at best\n' "$1" "$target" "${n:-0}" "${rate:-0}"
		if [ "${n:-0}" -lt "$floor" ]; then
			fuzz "$1" "$target" "${floor}x" # a busy machine gets more time
			if [ "$(inputs)" -lt "$floor" ]; then
				echo "kiln: $1 $target doesn't get through $floor inputs in two minutes" >&2
				exit 1
			fi
		fi
		touch "$work/$target.done"
	done
}

# As many packages at once as there are processors, with one worker each: while one is
# compiled, another one runs.
running=0
for dir in $(grep -l -r '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do
	if [ "$running" -ge "$(nproc)" ]; then
		wait -n
		running=$((running - 1))
	fi
	package "$dir" &
	running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
	wait -n
	running=$((running - 1))
done
echo "$(find "$work" -name '*.done' | wc -l) fuzz targets"
