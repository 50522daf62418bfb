#!/bin/bash
# From nothing to a Debian system that runs from an image in kiln's own store.
set -eu
state=${KILN_DEMO_DIR:-/var/tmp/kiln-demo}
cache=${XDG_CACHE_HOME:-/var/cache}/kiln-demo
export KILN_DIR=$state/kiln
kiln=$(cd "$(dirname "$0")/.." && pwd)/bin/kiln
step="start"
trap 'echo "kiln demo: failed: $step" >&2' ERR

if [ "$(id -u)" != 0 ]; then
	echo "kiln demo: containers are started by root; run make demo as root" >&2
	exit 1
fi
run() { # says what it does, does it, and says how long that took
	local from to
	echo "\$ kiln $*"
	step="kiln $*"
	local status=0
	from=$(date +%s%N)
	"$kiln" "$@" </dev/null || status=$?
	to=$(date +%s%N)
	printf '  (%d ms)\n' $(((to - from) / 1000000))
	return "$status"
}

mkdir -p "$state" "$cache"
# shellcheck source=/dev/null
. /etc/os-release
image=$cache/debian-$VERSION_CODENAME.tar.zst
if ! zstd -q -t "$image" 2>/dev/null; then
	step="make a Debian image with mmdebstrap"
	echo "Making a Debian image from this host's apt sources, once: $image"
	work=$(mktemp -d "$cache/work-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	if ! mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,procps \
		--format=tar "$VERSION_CODENAME" "$work/rootfs.tar" >"$work/log" 2>&1; then
		cat "$work/log" >&2
		false
	fi
	# One archive with the metadata in front and the system below rootfs/.
	mkdir "$work/meta" "$work/meta/templates"
	cat >"$work/meta/metadata.yaml" <<-EOF
		architecture: $(uname -m)
		creation_date: $(date +%s)
		properties:
		  description: Debian $VERSION_CODENAME ($(uname -m))
		  os: debian
		  release: $VERSION_CODENAME
		templates:
		  /etc/hostname:
		    when: [create, copy, rename]
		    template: hostname.tpl
		  /etc/hosts:
		    when: [create, copy, rename]
		    template: hosts.tpl
	EOF
	echo '{{ instance.name }}' >"$work/meta/templates/hostname.tpl"
	printf '127.0.0.1\tlocalhost\n127.0.1.1\t{{ instance.name }}\n' >"$work/meta/templates/hosts.tpl"
	tar -C "$work/meta" -cf "$work/image.tar" metadata.yaml templates
	mkdir "$work/rootfs"
	tar -C "$work/rootfs" --numeric-owner --xattrs --xattrs-include='*' -xf "$work/rootfs.tar"
	tar -C "$work" --numeric-owner --xattrs --xattrs-include='*' -rf "$work/image.tar" rootfs
	zstd -q -3 -T0 "$work/image.tar" -o "$work/image.tar.zst"
	mv "$work/image.tar.zst" "$image"
	rm -rf "$work"
	trap - EXIT
fi

step="start the daemon (its log: $state/log)"
if "$kiln" waitready --timeout 1 2>/dev/null; then
	echo "The daemon of the last demo still runs."
else
	setsid "$kiln" daemon >"$state/log" 2>&1 </dev/null &
	echo $! >"$state/pid"
	echo "\$ kiln daemon &"
	"$kiln" waitready --timeout 30
fi
if ! "$kiln" image alias show debian >/dev/null 2>&1; then
	run image import "$image" --alias debian
fi
if ! "$kiln" info c1 >/dev/null 2>&1; then
	run launch debian c1
elif [ "$("$kiln" list -f csv -c s c1)" != RUNNING ]; then
	run start c1
fi
step="wait for systemd in c1"
for _ in $(seq 600); do
	up=$("$kiln" exec c1 -- systemctl is-system-running 2>/dev/null </dev/null || true)
	case "$up" in running | degraded) break ;; esac
	sleep 0.05
done
run exec c1 -- cat /etc/os-release
if ! run exec c1 -- systemctl is-system-running; then
	"$kiln" exec c1 -- systemctl --no-pager --failed </dev/null
	"$kiln" exec c1 -- journalctl --no-pager -b -p warning </dev/null
	false
fi
step="list"
run list
if ! run exec c1 -- ip -4 addr show dev eth0; then
	echo "c1 has no network here; see $state/log"
fi
cat <<EOF

What you have now: a daemon with its files in $KILN_DIR, an image, and a Debian
system that runs from it. The image's files were not copied for it. Try next:

  export KILN_DIR=$KILN_DIR PATH=\$PATH:$(dirname "$kiln")
  kiln exec c1 -- bash
  kiln launch debian c2          # no file is copied
  kiln image info debian
  kiln image df
  LXD_DIR=\$KILN_DIR lxc list     # the real client, if it is installed

and when you are done: make demo-stop
EOF
