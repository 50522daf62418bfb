package server

import (
	"strconv"

	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/metrics"
)

func addInstance(set *metrics.Set, m daemon.Measures, i instance.Counted) {
	of := metrics.Labeled("name", i.Name, "project", i.Project, "type", "container")
	for _, c := range i.CPU {
		on := of.With("cpu", strconv.Itoa(c.CPU))
		set.Add(cpuSeconds, c.User.Seconds(), on.With("mode", "user"))
		set.Add(cpuSeconds, c.System.Seconds(), on.With("mode", "system"))
	}
	set.Add(cpus, float64(i.CPUs), of)
	set.Add(procs, float64(i.Processes), of)
	for _, d := range i.Disks {
		on := of.With("device", d.Device)
		set.Add(diskRead, float64(d.ReadBytes), on)
		set.Add(diskReads, float64(d.ReadsCompleted), on)
		set.Add(diskWritten, float64(d.WrittenBytes), on)
		set.Add(diskWrites, float64(d.WritesCompleted), on)
	}
	if m.Space.Size > 0 {
		root := of.With("device", m.Space.Device, "fstype", m.Space.Type, "mountpoint", "/")
		set.Add(fsSize, float64(m.Space.Size), root)
		set.Add(fsFree, float64(m.Space.Free), root)
		set.Add(fsAvailable, float64(m.Space.Available), root)
	}
	if i.Memory != nil {
		addMemory(set, *i.Memory, of)
	}
	if h := i.Hugepages; h != nil {
		set.Add(memHugeTotal, float64(h.Total), of)
		set.Add(memHugeFree, float64(max(0, h.Total-h.Used)), of)
	}
	for _, n := range i.Interfaces {
		on := of.With("device", n.Name)
		set.Add(netReceived, float64(n.Received.Bytes), on)
		set.Add(netRecvPackets, float64(n.Received.Packets), on)
		set.Add(netRecvErrors, float64(n.Received.Errors), on)
		set.Add(netRecvDrops, float64(n.Received.Dropped), on)
		set.Add(netSent, float64(n.Sent.Bytes), on)
		set.Add(netSentPackets, float64(n.Sent.Packets), on)
		set.Add(netSentErrors, float64(n.Sent.Errors), on)
		set.Add(netSentDrops, float64(n.Sent.Dropped), on)
	}
}

func addMemory(set *metrics.Set, m box.MemoryCounters, of metrics.Labels) {
	for _, v := range []struct {
		family metrics.Family
		value  int64
	}{
		{memActive, m.ActiveAnon + m.ActiveFile}, {memActiveAnon, m.ActiveAnon}, {memActiveFile, m.ActiveFile},
		{memInactive, m.InactiveAnon + m.InactiveFile}, {memInactAnon, m.InactiveAnon}, {memInactFile, m.InactiveFile},
		{memUnevictable, m.Unevictable}, {memCached, m.Cache}, {memDirty, m.Dirty}, {memWriteback, m.Writeback},
		{memMapped, m.Mapped}, {memRSS, m.Anon}, {memShared, m.Shared}, {memSwap, m.Swap}, {memKills, m.Kills},
		{memTotal, m.Total}, {memFree, max(0, m.Total-m.Used)}, {memAvailable, m.Available},
	} {
		set.Add(v.family, float64(v.value), of)
	}
}

// addServer adds what is of the whole server.
func addServer(set *metrics.Set, m daemon.Measures) {
	add := func(f metrics.Family, value float64, labels ...string) { set.Add(f, value, metrics.Labeled(labels...)) }
	add(buildInfo, 1, "version", m.Version)
	add(uptime, m.Uptime.Seconds())
	add(operationsTotal, float64(m.Working))
	all := int64(0)
	for severity, n := range m.Warnings {
		all += n
		add(warnings, float64(n), "severity", severity)
	}
	add(warningsTotal, float64(all))
	add(storeBytes, float64(m.Counts.Bytes))
	add(storeFiles, float64(m.Counts.Files))
	add(storageSize, float64(m.Space.Size))
	add(storageFree, float64(m.Space.Available))
	add(queries, float64(m.Queries))
	addScrub(add, m.Scrub)
	addRuntime(add, m)
}

func addScrub(add func(metrics.Family, float64, ...string), s daemon.Scrub) {
	running, finished := 0.0, 0.0
	switch s.Status {
	case daemon.ScrubRunning:
		running = 1
	case daemon.ScrubFinished:
		finished = float64(s.EndedAt.Unix())
	}
	repaired, unread := 0, 0
	for _, f := range s.Found {
		switch {
		case f.Repaired != "":
			repaired++
		case f.Unread:
			unread++
		}
	}
	add(scrubRunning, running)
	add(scrubRead, float64(s.Bytes))
	add(scrubEnded, finished)
	add(scrubFound, float64(repaired), "state", "repaired")
	add(scrubFound, float64(unread), "state", "unread")
	add(scrubFound, float64(len(s.Found)+s.Unnamed-repaired-unread), "state", "damaged")
}

// addRuntime adds what the runtime of Go counts.
func addRuntime(add func(metrics.Family, float64, ...string), m daemon.Measures) {
	s := m.Runtime
	add(gaugeOf("lxd_go_goroutines", "Goroutines."), float64(m.Routines))
	for _, v := range []struct {
		name, help string
		value      uint64
	}{
		{"alloc_bytes", "Bytes of objects on the heap.", s.Alloc},
		{"buck_hash_sys_bytes", "Bytes of the tables of profiles.", s.BuckHashSys},
		{"gc_sys_bytes", "Bytes of the garbage collector.", s.GCSys},
		{"heap_alloc_bytes", "Bytes of objects on the heap, garbage among them.", s.HeapAlloc},
		{"heap_idle_bytes", "Bytes of the heap without objects.", s.HeapIdle},
		{"heap_inuse_bytes", "Bytes of the heap with objects.", s.HeapInuse},
		{"heap_objects", "Objects on the heap.", s.HeapObjects},
		{"heap_released_bytes", "Bytes of the heap that the system has back.", s.HeapReleased},
		{"heap_sys_bytes", "Bytes of the heap.", s.HeapSys},
		{"mcache_inuse_bytes", "Bytes of caches of the allocator that are used.", s.MCacheInuse},
		{"mcache_sys_bytes", "Bytes of caches of the allocator.", s.MCacheSys},
		{"mspan_inuse_bytes", "Bytes of lists of the allocator that are used.", s.MSpanInuse},
		{"mspan_sys_bytes", "Bytes of lists of the allocator.", s.MSpanSys},
		{"next_gc_bytes", "Size of the heap at which garbage is collected next.", s.NextGC},
		{"other_sys_bytes", "Bytes of everything else.", s.OtherSys},
		{"stack_inuse_bytes", "Bytes of stacks that are used.", s.StackInuse},
		{"stack_sys_bytes", "Bytes of stacks.", s.StackSys},
		{"sys_bytes", "Bytes that the daemon has from the system.", s.Sys},
	} {
		add(gaugeOf("lxd_go_"+v.name, v.help), float64(v.value))
	}
	add(counterOf("lxd_go_frees_total", "Objects that were freed."), float64(s.Frees))
	add(counterOf("lxd_go_lookups_total", "Pointers that were looked up."), float64(s.Lookups))
	add(counterOf("lxd_go_mallocs_total", "Objects that were made."), float64(s.Mallocs))
	add(metrics.Family{Name: "lxd_go_alloc_bytes_total", Help: "Bytes of all objects that were made.",
		Kind: metrics.Unknown}, float64(s.TotalAlloc))
}
