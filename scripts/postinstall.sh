#!/bin/sh
# What make install does on the host itself: packages that kiln calls at run time,
# the group of its socket, limits of the kernel, and the units made known.
set -eu
prefix=$1
cd "$(dirname "$0")/.."
scripts/deps.sh run
if command -v systemd-sysusers >/dev/null 2>&1; then
	systemd-sysusers "$prefix/lib/sysusers.d/kiln.conf"
elif ! getent group kiln >/dev/null; then
	groupadd --system kiln
fi
sysctl -q -p "$prefix/lib/sysctl.d/60-kiln.conf" || true # the daemon raises them, too, where it may
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	echo "Start kiln now and at each boot: systemctl enable --now kiln.socket kiln kiln-instances"
else
	echo "systemd doesn't run here; start the daemon by hand: kiln daemon"
fi
