#!/bin/sh
# What make uninstall does on the host itself before the files go: the units are disabled and
# stopped, with the instances, or links to units that aren't there would be left.
set -eu
prefix=$1
shift
if ! [ -d /run/systemd/system ]; then
	echo "systemd doesn't run here: end a daemon that runs with \"kiln shutdown\", and disable units that are enabled"
	exit 0
fi
ours=
for unit in "$@"; do
	# Another kiln, of another prefix, stays as it is.
	if [ "$(systemctl show --property FragmentPath --value "$unit")" = "$prefix/lib/systemd/system/$unit" ]; then
		ours="$ours $unit"
	fi
done
[ -z "$ours" ] || systemctl disable --quiet --now $ours
