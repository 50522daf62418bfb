#!/bin/bash
# Tries kiln on a host as most users have one: vm.sh SUITE. A virtual machine with that Debian
# suite's kernel, systemd, AppArmor and cgroup v2 alone, in which scripts/vm/steps.sh walks through
# the life of containers. What it prints comes by the serial console. Without KVM it takes half an
# hour. No network but loopback, and none of the host's files but a copy.
set -euo pipefail
suite=${1:?usage: vm.sh SUITE}
repo=$(cd "$(dirname "$0")/.." && pwd)
bound=${KILN_VM_TIME:-7200} # seconds, for all of it
cd "$repo"
scripts/deps.sh vm

lxc=liblxc1
[ "$suite" = bookworm ] || lxc=liblxc1t64
host=linux-image-amd64,systemd-sysv,dbus,udev,kmod,apparmor,iproute2,iputils-ping,procps,$lxc,xz-utils,bzip2,squashfs-tools-ng
inner=systemd-sysv,dbus,apparmor,iproute2
cache=${KILN_TEST_CACHE:-/var/cache/kiln-test}/vm-$suite-$(cat "$0" | sha256sum | cut -c1-8)
work=$(mktemp -d "/var/tmp/kiln-vm-XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

# image FILE DIRECTORY SIZE: a file system with the files of a directory.
image() {
	truncate -s "$3" "$1.part"
	mkfs.ext4 -q -L "$(basename "$1" .img)" -d "$2" "$1.part"
	mv "$1.part" "$1"
}

if ! [ -e "$cache/root.img" ]; then
	echo "Making the machine's root file system, once: $cache"
	mkdir -p "$cache"
	# Of the initial ramdisk only what finds the disk, since an emulated machine unpacks it slowly.
	# shellcheck disable=SC2016 # mmdebstrap's shell expands it
	mmdebstrap --quiet --variant=minbase --include="$host" --essential-hook='
		mkdir -p "$1/etc/initramfs-tools/conf.d"
		printf "MODULES=list\nCOMPRESS=gzip\n" >"$1/etc/initramfs-tools/conf.d/kiln"
		printf "virtio_pci\nvirtio_blk\next4\n" >"$1/etc/initramfs-tools/modules"' "$suite" "$work/root"
	cp -L "$work/root/vmlinuz" "$work/root/initrd.img" "$cache/"
	etc=$work/root/etc
	find "$etc/apparmor.d" -maxdepth 1 -type f -delete # profiles of programs that it hasn't
	echo kiln-vm >"$etc/hostname"
	mkdir -p "$work/root/payload" "$etc/systemd/system/multi-user.target.wants"
	for unit in serial-getty@.service getty@.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
		ln -sf /dev/null "$etc/systemd/system/$unit"
	done
	cat >"$etc/systemd/system/kiln-vm.service" <<-END
		[Unit]
		Description=the steps of kiln's scripts/vm.sh
		After=kiln-instances.service
		[Service]
		ExecStartPre=/bin/mount -o ro /dev/vdb /payload
		ExecStart=/bin/bash /payload/steps.sh
		Environment=HOME=/root
		StandardOutput=tty
		StandardError=tty
		TTYPath=/dev/ttyS0
	END
	ln -sf ../kiln-vm.service "$etc/systemd/system/multi-user.target.wants/"
	image "$cache/root.img" "$work/root" 6G
	rm -rf --one-file-system "$work/root"
fi
if ! [ -e "$cache/debian.tar" ]; then
	echo "Making an image of Debian, once: $cache/debian.tar"
	mkdir "$work/debian"
	mmdebstrap --quiet --variant=minbase --include="$inner" "$suite" "$work/debian/rootfs"
	find "$work/debian/rootfs/etc/apparmor.d" -maxdepth 1 -type f -delete
	# Its next life knows whether it was stopped in order.
	cat >"$work/debian/rootfs/etc/systemd/system/told.service" <<-END
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart=/bin/sh -c "rm -f /var/told.before; [ ! -e /var/told ] || mv /var/told /var/told.before"
		ExecStop=/usr/bin/touch /var/told
		[Install]
		WantedBy=multi-user.target
	END
	mkdir -p "$work/debian/rootfs/etc/systemd/system/multi-user.target.wants"
	ln -s ../told.service "$work/debian/rootfs/etc/systemd/system/multi-user.target.wants/"
	printf 'architecture: x86_64\ncreation_date: %s\nproperties:\n  os: debian\n  release: %s\n' "$(date +%s)" "$suite" \
		>"$work/debian/metadata.yaml"
	tar -C "$work/debian" --numeric-owner --xattrs --xattrs-include='*' -cf "$work/debian.tar" metadata.yaml rootfs
	mv "$work/debian.tar" "$cache/debian.tar"
	rm -rf --one-file-system "$work/debian"
fi

# What is new each time: kiln, as it is installed, and an image with a busybox that boots.
mkdir "$work/payload" "$work/busybox"
make -s install DESTDIR="$work/payload/install"
root=$work/busybox/rootfs
mkdir -p "$root"/{bin,sbin,etc/init.d,dev,proc,sys,tmp,root,run,var}
cp /bin/busybox "$root/bin/busybox"
for applet in $(/bin/busybox --list); do
	case "$applet" in
	busybox) ;;
	init) ln -s /bin/busybox "$root/sbin/init" ;;
	*) ln -s busybox "$root/bin/$applet" ;;
	esac
done
printf 'root:x:0:0::/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
printf 'ID=busybox\nVERSION_ID=1\n' >"$root/etc/os-release"
printf '::sysinit:/etc/init.d/rcS\n::respawn:/bin/sleep 100000\n' >"$root/etc/inittab"
printf '#!/bin/sh\necho up\n' >"$root/etc/init.d/rcS"
chmod 755 "$root/etc/init.d/rcS"
printf 'architecture: x86_64\ncreation_date: 1458040200\nproperties:\n  os: busybox\n' >"$work/busybox/metadata.yaml"
tar -C "$work/busybox" --owner=0 --group=0 -cf "$work/payload/busybox.tar" metadata.yaml rootfs
cp "$cache/debian.tar" scripts/vm/steps.sh "$work/payload/"
image "$work/payload.img" "$work/payload" "$(($(du -sm "$work/payload" | cut -f1) + 128))M"
rm -rf "$work/payload" "$work/busybox"

accel=tcg,thread=multi
[ -w /dev/kvm ] && accel=kvm
echo "Booting ($accel)"
# Changes of the disks go to temporary files of qemu's.
timeout "$bound" nice -n 10 qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 4096 -no-user-config -nodefaults \
	-nic none -display none -kernel "$cache/vmlinuz" -initrd "$cache/initrd.img" \
	-append "root=/dev/vda rw console=ttyS0 loglevel=4 net.ifnames=0 panic=-1 mitigations=off \
systemd.show_status=1 systemd.default_timeout_start_sec=900" \
	-drive "file=$cache/root.img,format=raw,if=virtio,snapshot=on" \
	-drive "file=$work/payload.img,format=raw,if=virtio,snapshot=on" \
	-device virtio-rng-pci -serial stdio </dev/null | sed -u 's/\r//g' | tee "$work/console" |
	sed -un 's/^.*vm: //p' || echo "qemu did not end by itself within $bound s" >&2
if ! grep -q 'vm: passed$' "$work/console"; then
	echo "FAILED; the end of the console:" >&2
	tail -n 60 "$work/console" >&2
	exit 1
fi
