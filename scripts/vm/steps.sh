#!/bin/bash
# The life of containers, step by step, in the virtual machine of scripts/vm.sh. Each step is a
# line on the console; one that fails is followed by what it said, and by the daemon's journal at
# the end. The machine reboots once in the middle.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KILN_CONF=/root/.kiln
state=/var/lib/kiln-vm # survives the reboot
mkdir -p "$state"

say() { sed 's/^/vm: /'; }

# step NAME: runs what is on standard input, with a bound.
step() {
	local from=$SECONDS status=0
	timeout -k 10 "${BOUND:-600}" bash -eu -c "$helpers
$(cat)" </dev/null >"$state/out" 2>&1 || status=$?
	if [ "$status" = 0 ]; then
		echo "ok $1 ($((SECONDS - from)) s)" | say
	else
		echo "$1" >>"$state/failed"
		{
			echo "FAILED $1: $status, after $((SECONDS - from)) s"
			tail -n 40 "$state/out" | sed 's/^/    /'
		} | say
	fi
}

# What steps may call.
# shellcheck disable=SC2016 # the steps' shells expand it
helpers='
uuid() { kiln config get "$1" volatile.uuid; }
pid() { kiln query "/1.0/instances/$1/state" | tr -d " \n" | sed "s/.*\"pid\":\([0-9]*\).*/\1/"; }
cgroup() { cat "/sys/fs/cgroup/kiln.payload/$(uuid "$1")/$2"; }
status() { kiln list -f csv -c s "$1"; }
is() { [ "$1" = "$2" ] || { echo "is: $1"; echo "should be: $2"; false; }; }
has() { case "$1" in *"$2"*) ;; *) echo "is: $1"; echo "lacks: $2"; false ;; esac; }
no() { if "$@"; then echo "was possible: $*"; false; fi; }
until_is() { # seconds, what should be said, and by which command
	for _ in $(seq "$1"); do
		said=$("${@:3}" 2>&1) || true
		[ "$said" = "$2" ] && return
		sleep 1
	done
	is "$said" "$2"
}
'

first() {
	step "the host has systemd, AppArmor and cgroup v2 alone" <<'END'
is "$(cat /proc/1/comm)" systemd
is "$(cat /sys/module/apparmor/parameters/enabled)" Y
is "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs
END
	step "the daemon starts by its units" <<'END'
cp -a /payload/install/. /
systemd-sysusers /usr/local/lib/sysusers.d/kiln.conf
sysctl -q -p /usr/local/lib/sysctl.d/60-kiln.conf
systemctl daemon-reload
systemctl enable --now kiln.socket kiln kiln-instances
kiln waitready --timeout 120
kiln doctor
END
	step "AppArmor's profiles are loaded once" <<'END'
for _ in $(seq 120); do
	[ "$(ls /sys/kernel/security/apparmor/policy/profiles | grep -c '^kiln-container-')" = 2 ] && exit
	sleep 1
done
false
END
	step "import an image" <<<'kiln image import /payload/busybox.tar --alias bb'
	step "launch c1" <<<'kiln launch bb c1'
	step "launch c2" <<<'kiln launch bb c2; is "$(status c2)" RUNNING'
	step "init is confined" <<'END'
label=$(cat "/proc/$(pid c1)/attr/current")
is "${label% (*}" "$(cd /sys/kernel/security/apparmor/policy/profiles; cat kiln-container-[0-9a-f][0-9a-f]*/name | head -n 1)//&:lxc-kiln-$(uuid c1):unconfined"
has "$label" "enforce"
END
	step "a command runs, as confined as init" <<'END'
is "$(kiln exec c1 -- sh -c 'hostname; id -u')" "c1
0"
pid=$(pid c1)
kiln exec c1 -- sleep 60 &
for _ in $(seq 60); do
	child=$(pgrep -o -f '^sleep 60') && break
	sleep 1
done
is "$(cat "/proc/$child/attr/current")" "$(cat "/proc/$pid/attr/current")"
kill "$child"
wait || true
code=0
kiln exec c1 -- sh -c 'exit 7' || code=$?
is "$code" 7
END
	step "addresses, and the way to the bridge and another instance" <<'END'
bridge=$(kiln network get kilnbr0 ipv4.address)
kiln exec c1 -- ping -c 1 -W 10 "${bridge%/*}"
other=$(kiln list -f csv -c 4 c2)
kiln exec c1 -- ping -c 1 -W 10 "${other%% *}"
mine=$(kiln list -f csv -c 4 c1)
ping -c 1 -W 10 "${mine%% *}"
END
	step "an address by DHCP" <<'END'
mine=$(kiln list -f csv -c 4 c1)
kiln exec c1 -- udhcpc -i eth0 -n -q -t 20 -s /bin/true >"/tmp/dhcp" 2>&1 || { cat /tmp/dhcp; false; }
has "$(cat /tmp/dhcp)" "${mine%% *}"
END
	step "limits, set while it runs" <<'END'
kiln config set c1 limits.memory=64MiB limits.cpu.allowance=25ms/100ms limits.processes=50 limits.cpu=1
is "$(cgroup c1 memory.max)" 67108864
is "$(cgroup c1 cpu.max)" "25000 100000"
is "$(cgroup c1 pids.max)" 50
is "$(cgroup c1 cpuset.cpus.effective | wc -c)" 2
kiln config device override c1 root limits.read=10MiB limits.write=5MiB
has "$(cgroup c1 io.max)" "rbps=10485760 wbps=5242880"
kiln config unset c1 limits.cpu.allowance
has "$(cgroup c1 cpu.max)" "max "
END
	step "its root can't change the host" <<'END'
cat >/tmp/borders <<'SH'
refused() { if (eval "$1") 2>/dev/null; then echo "was possible: $1"; exit 1; fi; }
refused 'echo 1 >/proc/sys/kernel/panic'
refused 'echo 1 >/proc/sys/vm/drop_caches'
refused 'echo x >/proc/sys/fs/binfmt_misc/register'
refused 'echo h >/proc/sysrq-trigger'
refused 'head -c 1 /proc/kcore'
refused 'echo 0 >/sys/kernel/profiling'
refused 'echo mem >/sys/power/state'
refused 'ls /sys/kernel/debug'
mkdir -p /tmp/p
mount -t proc p /tmp/p
refused 'echo 1 >/tmp/p/sys/kernel/panic'
refused 'echo h >/tmp/p/sysrq-trigger'
refused 'mount -t debugfs d /tmp'
refused 'mknod /tmp/vda b 254 0 && head -c 1 /tmp/vda'
refused 'mount -t ext4 /dev/vda /tmp'
refused 'insmod /etc/passwd'
refused 'date -s 2001-01-01 && [ "$(date +%Y)" = 2001 ]'
refused 'dmesg'
SH
kiln file push /tmp/borders c1/root/borders
kiln exec c1 -- sh /root/borders
is "$(cat /proc/sys/kernel/panic)" -1
END
	step "another instance is out of reach" <<'END'
no kiln exec c1 -- kill -0 "$(pid c2)"
no kiln exec c1 -- ls "/proc/$(pid c2)"
END
	step "push and pull files" <<'END'
head -c 300000 /dev/urandom >/tmp/a
kiln file push /tmp/a c1/root/a
kiln file pull c1/root/a /tmp/b
cmp /tmp/a /tmp/b
is "$(kiln exec c1 -- sha256sum </dev/null /root/a | cut -c1-64)" "$(sha256sum </tmp/a | cut -c1-64)"
END
	step "devices come and go" <<'END'
mkdir -p /srv/x
echo there >/srv/x/f
kiln config device add c1 x disk source=/srv/x path=/mnt/x
is "$(kiln exec c1 -- cat /mnt/x/f)" there
kiln config device add c1 eth1 nic network=kilnbr0
has "$(kiln exec c1 -- ip link)" "eth1"
kiln config device add c1 kmsg unix-char path=/dev/kmsg
kiln exec c1 -- test -c /dev/kmsg
kiln config device remove c1 kmsg
kiln config device remove c1 eth1
kiln config device remove c1 x
no kiln exec c1 -- test -e /mnt/x/f
END
	step "a snapshot, and back" <<'END'
kiln exec c1 -- sh -c 'echo before >/root/s'
kiln snapshot c1 s0
kiln exec c1 -- sh -c 'echo after >/root/s'
kiln restore c1 s0
until_is 60 before kiln exec c1 -- cat /root/s
END
	step "publish" <<'END'
kiln publish c1/s0 --alias mine
kiln launch mine c3
is "$(kiln exec c3 -- cat /root/s)" before
kiln delete -f c3
END
	step "a reboot from inside" <<'END'
was=$(pid c1)
kiln exec c1 -- reboot || true # it goes down with the rest
for _ in $(seq 120); do
	now=$(pid c1)
	[ "$now" != "$was" ] && [ "$now" -gt 0 ] && break
	sleep 1
done
no [ "$now" = "$was" ]
is "$(status c1)" RUNNING
until_is 60 up sh -c "kiln console c1 --show-log | tail -n 1 | tr -d '\r'"
has "$(cat "/proc/$(pid c1)/attr/current")" "kiln-container-"
END
	step "stop and start" <<'END'
kiln stop c1 --timeout 120
is "$(status c1)" STOPPED
no ls -d "/sys/kernel/security/apparmor/policy/namespaces/lxc-kiln-$(uuid c1)"
no ls -d "/sys/fs/cgroup/kiln.payload/$(uuid c1)"
kiln start c1
kiln stop -f c1
kiln start c1
END
	step "the console" <<'END'
has "$(kiln console c1 --show-log)" up
kiln console c1 </dev/null
END
	step "the daemon is restarted, and reboots are seen" <<'END'
was=$(pid c1)
kiln exec c1 -- sh -c 'echo kept >/tmp/k'
systemctl restart kiln
kiln waitready --timeout 120
is "$(pid c1)" "$was"
is "$(kiln exec c1 -- cat /tmp/k)" kept
kiln exec c1 -- sh -c '(sleep 5; reboot) >/dev/null 2>&1 </dev/null &'
systemctl stop kiln
sleep 20
systemctl start kiln
kiln waitready --timeout 120
for _ in $(seq 120); do
	now=$(pid c1)
	[ "$now" != "$was" ] && [ "$now" -gt 0 ] && break
	sleep 1
done
no [ "$now" = "$was" ]
is "$(status c1)" RUNNING
END
	step "privileged, and nesting" <<'END'
kiln launch bb p1 -c security.privileged=true
has "$(cat "/proc/$(pid p1)/attr/current")" "enforce"
is "$(kiln exec p1 -- id -u)" 0
no kiln exec p1 -- sh -c 'echo 1 >/proc/sys/kernel/panic'
no kiln exec p1 -- sh -c 'echo h >/proc/sysrq-trigger'
kiln launch bb n1 -c security.nesting=true
has "$(cat "/proc/$(pid n1)/attr/current")" "kiln-container-nesting-"
kiln delete -f p1 n1
END
	BOUND=900 step "import Debian" <<<'kiln image import /payload/debian.tar --alias debian'
	BOUND=900 step "launch Debian" <<<'kiln launch debian d1'
	BOUND=900 step "systemd in it has started all of its units" <<'END'
until_is 600 running kiln exec d1 -- systemctl is-system-running || { kiln exec d1 -- systemctl --no-pager --failed; false; }
END
	BOUND=600 step "programs in it can be confined" <<'END'
cat >/tmp/inner <<'SH'
printf 'profile inner {\n file,\n deny /etc/hostname r,\n}\n' >/tmp/inner.aa
apparmor_parser --replace --skip-cache /tmp/inner.aa
aa-exec -p inner -- cat /etc/os-release >/dev/null
! aa-exec -p inner -- cat /etc/hostname
! aa-exec -p inner -- sh -c 'echo 1 >/proc/sys/kernel/panic'
SH
kiln file push /tmp/inner d1/root/inner
kiln exec d1 -- sh -eux /root/inner
has "$(grep inner /sys/kernel/security/apparmor/profiles)" ":lxc-kiln-$(uuid d1):" # not in the host's namespace
END
	BOUND=600 step "stop Debian in order" <<'END'
kiln stop d1 --timeout 400
kiln file pull d1/var/told /tmp/told
kiln start d1
END
	step "what runs before the host goes down" <<'END'
for _ in $(seq 200); do
	kiln exec d1 -- systemctl is-active -q told && break
	sleep 1
done
is "$(kiln list -f csv -c ns | sort)" "c1,RUNNING
c2,RUNNING
d1,RUNNING"
kiln stop -f c2
END
}

second() {
	BOUND=600 step "the daemon starts with the host" <<<'kiln waitready --timeout 500; systemctl is-active kiln kiln-instances'
	BOUND=600 step "what ran runs again, and nothing else" <<'END'
until_is 500 "c1,RUNNING
c2,STOPPED
d1,RUNNING" sh -c 'kiln list -f csv -c ns | sort'
has "$(cat "/proc/$(pid c1)/attr/current")" "kiln-container-"
END
	step "Debian was stopped in order when the host went down" <<'END'
until_is 300 active kiln exec d1 -- systemctl is-active told
kiln file pull d1/var/told.before /tmp/told
END
	BOUND=600 step "nothing is left of what is deleted" <<'END'
kiln delete -f c1 c2 d1
is "$(ls /sys/kernel/security/apparmor/policy/namespaces)" ""
is "$(ls -d /sys/fs/cgroup/kiln.payload/* 2>/dev/null || true)" ""
END
	step "kiln is shut down" <<<'kiln shutdown --timeout 100'
}

finish() {
	if [ -s "$state/failed" ]; then
		{
			echo "The daemon's journal:"
			journalctl --no-pager -u kiln -u kiln-instances -n 150
			echo "The kernel's:"
			journalctl --no-pager -k -n 40
			echo "FAILED: $(wc -l <"$state/failed") steps"
			sed 's/^/  /' "$state/failed"
		} | say
	else
		echo "vm: passed"
	fi
	sleep 2 # for the console
	systemctl poweroff
}

echo # what was on the line
if ! [ -e "$state/once" ]; then
	touch "$state/once"
	first
	echo "the host reboots" | say
	systemctl reboot
else
	second
	finish
fi
