#!/bin/bash
# Removes every trace of the demo but the image it has cached.
set -eu
state=${KILN_DEMO_DIR:-/var/tmp/kiln-demo}
export KILN_DIR=$state/kiln
kiln=$(cd "$(dirname "$0")/.." && pwd)/bin/kiln
if ! [ -e "$state" ]; then
	echo "There is no demo."
	exit 0
fi
# A daemon that died has left its instances running; another one finds them.
if ! "$kiln" waitready --timeout 1 2>/dev/null; then
	setsid "$kiln" daemon >"$state/log" 2>&1 </dev/null &
	echo $! >"$state/pid"
	"$kiln" waitready --timeout 30
fi
"$kiln" list -f csv -c n | while read -r name; do
	"$kiln" delete --force "$name" </dev/null
done
if "$kiln" network show kilnbr0 >/dev/null 2>&1 </dev/null; then
	bridge=$(ip -o link show type bridge | sed -n "s|^[0-9]*: \([^:]*\):.*alias kiln $KILN_DIR kilnbr0.*|\1|p" || true)
	"$kiln" profile device remove default eth0 </dev/null
	"$kiln" network delete kilnbr0 </dev/null
fi
"$kiln" shutdown --timeout 60
pid=$(cat "$state/pid" 2>/dev/null || echo)
for _ in $(seq 100); do
	[ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || break
	sleep 0.05
done
rm -rf "$state"
left=""
grep -q "$state" /proc/mounts && left="$left mounts"
[ -e "$state" ] && left="$left files"
[ -n "${bridge:-}" ] && [ -e "/sys/class/net/$bridge" ] && left="$left $bridge"
if [ -n "$left" ]; then
	echo "kiln demo: left behind:$left" >&2
	exit 1
fi
echo "Nothing of the demo is left."
