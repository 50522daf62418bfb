#!/bin/sh
# Installs what a job needs and the machine lacks: deps.sh build|run|test|demo|bench|vm.
set -eu

# liblxc's headers are in lxc-dev on Debian 12 and in liblxc-dev on Debian 13.
headers() {
	if apt-cache show liblxc-dev >/dev/null 2>&1; then echo liblxc-dev; else echo lxc-dev; fi
}

need=""
want() { # package, and a file or command that comes with it
	case "$2" in
	/*) [ -e "$2" ] || need="$need $1" ;;
	*) command -v "$2" >/dev/null 2>&1 || need="$need $1" ;;
	esac
}

case "$1" in
build)
	want gcc gcc
	want libc6-dev /usr/include/stdio.h
	want pkg-config pkg-config
	want git git
	want ca-certificates /etc/ssl/certs/ca-certificates.crt
	[ -e /usr/include/lxc/lxccontainer.h ] || need="$need HEADERS"
	;;
run | test | demo | bench)
	want xz-utils xz
	want bzip2 bzip2
	want squashfs-tools-ng sqfs2tar
	;;
vm)
	want qemu-system-x86 qemu-system-x86_64
	want seabios /usr/share/seabios/bios-256k.bin
	want mmdebstrap mmdebstrap
	want e2fsprogs mkfs.ext4
	want busybox-static /bin/busybox
	;;
*)
	echo "usage: $0 build|run|test|demo|bench|vm" >&2
	exit 2
	;;
esac
case "$1" in
test | demo | bench)
	want zstd zstd
	want procps sysctl
	want mmdebstrap mmdebstrap
	;;
esac
if [ "$1" = bench ]; then
	want busybox-static /bin/busybox
	want btrfs-progs mkfs.btrfs
	want curl curl
	want procps pgrep
	want lxd-client lxc
	want lxd lxd
fi
if [ "$1" = test ]; then
	want busybox-static /bin/busybox
	want lz4 lz4
	want groff-base groff
	want squashfs-tools mksquashfs
	want erofs-utils fsck.erofs
	want lxcfs lxcfs
	want btrfs-progs mkfs.btrfs
	want xfsprogs mkfs.xfs
	want acl setfacl
	want apparmor apparmor_parser
	want libcap2-bin setcap
	want uidmap newuidmap
	want lxd-client lxc
	want lxd lxd
	want python3-pylxd /usr/lib/python3/dist-packages/pylxd
	want python3-prometheus-client /usr/lib/python3/dist-packages/prometheus_client
	want nginx-light nginx
	want iptables iptables-legacy-restore
	want xdelta3 xdelta3
	want curl curl
	want sshfs sshfs
	want minisign minisign
	want gpg gpg
	want rsync rsync
fi
if [ -n "$need" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "kiln: these packages are missing, and only root can install them:$need" >&2
		exit 1
	fi
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	echo "Installing what is missing ..."
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
	need=$(echo "$need" | sed "s/HEADERS/$(headers)/")
	# shellcheck disable=SC2086 # a list of words
	apt-get install -y -qq --no-install-recommends $need >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
fi
if [ "$1" = build ] && ! command -v go >/dev/null 2>&1 && ! [ -x /usr/local/go/bin/go ]; then
	echo "kiln: Go 1.26 or newer is needed to build; install it in /usr/local/go or put it on the PATH" >&2
	exit 1
fi
