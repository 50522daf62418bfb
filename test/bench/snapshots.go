package main

import "fmt"

// manySnapshots is how many snapshots an instance has that starts with many.
const manySnapshots = 200

// snapshots takes and restores them, of a container that is stopped and of one that
// runs.
func (b *bench) snapshots() {
	b.stopped("s")
	defer b.must(dropInstances + dropImages)
	fmt.Println("\nSnapshots of a container (s)")
	row("", "kiln", "lxd dir", "ratio")
	const kilnDrop, lxdDrop = "bin/kiln delete s/x 2>/dev/null; sync", "lxc delete s/x 2>/dev/null; sync"
	print := func(name string, m []float64) { row(name, m[0], m[1], m[0]/m[1]) }
	print("snapshot, stopped", b.timed([]string{kilnDrop, lxdDrop}, []string{"bin/kiln snapshot s x", "lxc snapshot s x"}))
	print("restore, stopped", b.timed([]string{"sync", "sync"}, []string{"bin/kiln restore s x", "lxc restore s x"}))
	b.must("bin/kiln start s && lxc start s")
	b.must(up("bin/kiln", "s"))
	b.must(up("lxc", "s"))
	print("snapshot, running", b.timed([]string{kilnDrop, lxdDrop}, []string{"bin/kiln snapshot s x", "lxc snapshot s x"}))
	b.must(kilnDrop + "; " + lxdDrop + "; lxc stop -f s; bin/kiln stop -f s")
	start := func() float64 {
		return b.timed([]string{"bin/kiln stop -f s 2>/dev/null; sync"},
			[]string{"bin/kiln start s && " + up("bin/kiln", "s")})[0]
	}
	fmt.Println("\nStart until systemctl is-system-running answers (s)")
	row("", "none", manySnapshots, "ratio")
	none := start()
	b.must("bin/kiln stop -f s")
	for range manySnapshots {
		b.must("bin/kiln start s && bin/kiln exec s -- sh -c 'date >> /root/log' </dev/null; bin/kiln stop -f s && " +
			"bin/kiln snapshot s")
	}
	with := start()
	row("snapshots of kiln's", none, with, with/none)
}
