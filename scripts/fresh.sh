#!/bin/bash
# Runs make targets as on a bare machine that was just installed: fresh.sh SUITE TARGET…
# A minimal root of that Debian suite with deb822 sources only, no cache of any kind,
# mount and process namespaces of its own, a clone of HEAD, and the host's Go.
set -euo pipefail
suite=${1:?usage: fresh.sh SUITE TARGET...}
shift
repo=$(cd "$(dirname "$0")/.." && pwd)
go=$(readlink -f "$(PATH=$PATH:/usr/local/go/bin go env GOROOT)")
work=$(mktemp -d "/var/tmp/kiln-fresh-$suite-XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

mmdebstrap --quiet --variant=minbase --include=make,git,ca-certificates "$suite" "$root"
rm -f "$root/etc/apt/sources.list"
cat >"$root/etc/apt/sources.list.d/debian.sources" <<-END
	Types: deb
	URIs: http://deb.debian.org/debian
	Suites: $suite $suite-updates
	Components: main
	Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

	Types: deb
	URIs: http://deb.debian.org/debian-security
	Suites: $suite-security
	Components: main
	Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
# What a machine gets from its site: names, and who signs certificates there.
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
mkdir -p "$root/usr/local/share/ca-certificates"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$root/usr/local/share/ca-certificates/" \; 2>/dev/null || true
git clone -q --no-hardlinks "$repo" "$root/root/kiln"
mkdir -p "$root/usr/local/go"

export repo go root
# shellcheck disable=SC2016 # the inner shell expands it
unshare --mount --pid --fork --kill-child --uts bash -euc '
	mount --make-rprivate /
	mount --bind "$root" "$root"
	mount --bind "$go" "$root/usr/local/go"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs tmpfs "$root/run"
	mount -t tmpfs tmpfs "$root/tmp"
	cd "$root"
	pivot_root . mnt
	umount -l /mnt
	hostname fresh
	exec env -i HOME=/root TERM=dumb GOTOOLCHAIN=local \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		bash -euc "update-ca-certificates >/dev/null 2>&1 || true; cd /root/kiln; time make \$*" - "$@"
' - "$@"
