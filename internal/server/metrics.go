package server

import (
	"bufio"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/metrics"
)

// measuredAgo is how old what is told may be for those who can't manage the server: they may
// ask as often as they like.
const measuredAgo = time.Second

// metricsPath is all that there is on the addresses for metrics.
const metricsPath = "/1.0/metrics"

// getMetrics tells what is counted, to whom may know it: whoever manages the server and
// certificates for metrics all of it, those that are restricted what is of their projects.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) (any, error) {
	everybody, names, err := s.d.MayScrape(r.Context())
	if err != nil {
		return nil, err
	}
	c, of := callerOf(r), r.URL.Query().Get("project")
	if !c.trusted && !c.metrics && !everybody {
		return nil, kiln.Errorf(kiln.Denied, notAuthorized)
	}
	if !c.mayUse(of) && of != "" {
		return nil, noProject(of)
	}
	ago := measuredAgo
	if c.trusted && !c.restricted {
		ago = 0
	}
	m, err := s.d.Measure(r.Context(), ago)
	if err != nil {
		return nil, err
	}
	if of != "" && !slices.Contains(m.Counts.Projects, of) {
		return nil, noProject(of)
	}
	var set metrics.Set
	addInstances(&set, m, func(p string) bool { return c.mayUse(p) && (of == "" || of == p) })
	if of == "" && !c.restricted {
		addServer(&set, m)
		counted, err := s.d.Counters.Families()
		if err != nil {
			return nil, err
		}
		set.Merge(counted)
	}
	if names != "lxd" {
		set.Rename("lxd_", names+"_")
	}
	return handled{}, s.sendMetrics(w, r, &set)
}

func (s *Server) sendMetrics(w http.ResponseWriter, r *http.Request, set *metrics.Set) error {
	format := metrics.Accepted(r.Header)
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return nil
	}
	var out io.Writer = w
	var err error
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z, zerr := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if zerr != nil {
			return zerr
		}
		defer func() { _ = z.Close() }()
		out = z
	}
	buf := bufio.NewWriterSize(out, 64<<10)
	if err = set.Write(buf, format); err == nil {
		err = buf.Flush()
	}
	if err != nil {
		s.logOf(r).Debug("answer a request", "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// onlyMetrics is the server on the addresses for metrics.
func (s *Server) onlyMetrics(w http.ResponseWriter, r *http.Request) {
	if strings.TrimSuffix(r.URL.Path, "/") != metricsPath {
		http.Error(w, "there is only "+metricsPath+" on this address", http.StatusNotFound)
		return
	}
	s.ServeHTTP(w, r)
}

// What is measured of instances, as LXD calls it.
var (
	cpuSeconds     = counterOf("lxd_cpu_seconds_total", "Processor time that was used, in seconds.")
	cpus           = gaugeOf("lxd_cpu_effective_total", "Processors that may be used.")
	diskRead       = counterOf("lxd_disk_read_bytes_total", "Bytes read from block devices.")
	diskReads      = counterOf("lxd_disk_reads_completed_total", "Reads from block devices.")
	diskWritten    = counterOf("lxd_disk_written_bytes_total", "Bytes written to block devices.")
	diskWrites     = counterOf("lxd_disk_writes_completed_total", "Writes to block devices.")
	fsAvailable    = gaugeOf("lxd_filesystem_avail_bytes", "Bytes that can be written to the file system.")
	fsFree         = gaugeOf("lxd_filesystem_free_bytes", "Free bytes of the file system, with what is reserved for root.")
	fsSize         = gaugeOf("lxd_filesystem_size_bytes", "Bytes of the file system.")
	memActive      = gaugeOf("lxd_memory_Active_bytes", "Memory that was used lately.")
	memActiveAnon  = gaugeOf("lxd_memory_Active_anon_bytes", "Memory of processes that was used lately.")
	memActiveFile  = gaugeOf("lxd_memory_Active_file_bytes", "Cache of files that was used lately.")
	memCached      = gaugeOf("lxd_memory_Cached_bytes", "Cache of files.")
	memDirty       = gaugeOf("lxd_memory_Dirty_bytes", "Cache of files that is to be written.")
	memHugeFree    = gaugeOf("lxd_memory_HugepagesFree_bytes", "Huge pages up to the limit that are not used.")
	memHugeTotal   = gaugeOf("lxd_memory_HugepagesTotal_bytes", "Huge pages that may be used; 0 without a limit.")
	memInactive    = gaugeOf("lxd_memory_Inactive_bytes", "Memory that wasn't used lately.")
	memInactAnon   = gaugeOf("lxd_memory_Inactive_anon_bytes", "Memory of processes that wasn't used lately.")
	memInactFile   = gaugeOf("lxd_memory_Inactive_file_bytes", "Cache of files that wasn't used lately.")
	memMapped      = gaugeOf("lxd_memory_Mapped_bytes", "Files that are mapped by processes.")
	memAvailable   = gaugeOf("lxd_memory_MemAvailable_bytes", "Memory that can be had without swapping.")
	memFree        = gaugeOf("lxd_memory_MemFree_bytes", "Memory that nothing uses.")
	memTotal       = gaugeOf("lxd_memory_MemTotal_bytes", "Memory that may be used: the limit, or what the host has.")
	memKills       = counterOf("lxd_memory_OOM_kills_total", "Processes that were killed for want of memory.")
	memRSS         = gaugeOf("lxd_memory_RSS_bytes", "Memory of processes that is no file's.")
	memShared      = gaugeOf("lxd_memory_Shmem_bytes", "Shared memory, and files in tmpfs.")
	memSwap        = gaugeOf("lxd_memory_Swap_bytes", "Memory that is swapped out.")
	memUnevictable = gaugeOf("lxd_memory_Unevictable_bytes", "Memory that can't be taken away.")
	memWriteback   = gaugeOf("lxd_memory_Writeback_bytes", "Cache of files that is being written.")
	netReceived    = counterOf("lxd_network_receive_bytes_total", "Bytes that an interface received.")
	netRecvDrops   = counterOf("lxd_network_receive_drop_total", "Packets that came to an interface and were dropped.")
	netRecvErrors  = counterOf("lxd_network_receive_errs_total", "Packets that came to an interface damaged.")
	netRecvPackets = counterOf("lxd_network_receive_packets_total", "Packets that an interface received.")
	netSent        = counterOf("lxd_network_transmit_bytes_total", "Bytes that an interface sent.")
	netSentDrops   = counterOf("lxd_network_transmit_drop_total", "Packets that an interface was to send and dropped.")
	netSentErrors  = counterOf("lxd_network_transmit_errs_total", "Packets that an interface couldn't send.")
	netSentPackets = counterOf("lxd_network_transmit_packets_total", "Packets that an interface sent.")
	procs          = gaugeOf("lxd_procs_total", "Processes and threads.")
	instances      = gaugeOf("lxd_instances", "Instances, whether they run or not.")
	byStatus       = gaugeOf("kiln_instances", "Instances, by whether they run.")
	images         = gaugeOf("kiln_images", "Images.")
	imageBytes     = gaugeOf("kiln_image_bytes", "Bytes of images, with the files that several of them have.")
)

// What is measured of the server.
var (
	buildInfo       = gaugeOf("kiln_build_info", "Always 1; the version of the daemon.")
	uptime          = gaugeOf("lxd_uptime_seconds", "Time since the daemon began, in seconds.")
	operationsTotal = gaugeOf("lxd_operations_total", "Operations under way.")
	warningsTotal   = gaugeOf("lxd_warnings_total", "Warnings that are not resolved.")
	warnings        = gaugeOf("kiln_warnings", "Warnings that are not resolved, by severity.")
	storeBytes      = gaugeOf("kiln_image_store_bytes", "Bytes of files of images, each counted once.")
	storeFiles      = gaugeOf("kiln_image_store_files", "Files of images, each counted once.")
	storageSize     = gaugeOf("kiln_storage_size_bytes", "Bytes of the file system that everything is on.")
	storageFree     = gaugeOf("kiln_storage_free_bytes", "Bytes of it that can be written.")
	queries         = counterOf("kiln_database_queries_total", "Queries of the database that only read.")
	scrubRunning    = gaugeOf("kiln_scrub_running", "Whether a scrub is under way.")
	scrubRead       = gaugeOf("kiln_scrub_read_bytes", "Bytes that the last scrub has read.")
	scrubEnded      = gaugeOf("kiln_scrub_finished_timestamp_seconds", "When the last scrub had seen all; 0: not yet.")
	scrubFound      = gaugeOf("kiln_scrub_damages", "What the last scrub found, by what became of it.")
)

func counterOf(name, help string) metrics.Family {
	return metrics.Family{Name: name, Help: help, Kind: metrics.Counter}
}

func gaugeOf(name, help string) metrics.Family { return metrics.Family{Name: name, Help: help} }

// addInstances adds what is of the projects that may be told of.
func addInstances(set *metrics.Set, m daemon.Measures, tell func(project string) bool) {
	running := map[string]int{}
	for _, i := range m.Instances {
		if tell(i.Project) {
			running[i.Project]++
			addInstance(set, m, i)
		}
	}
	for _, p := range m.Counts.Projects {
		if !tell(p) {
			continue
		}
		set.Add(instances, float64(running[p]+m.Stopped[p]), metrics.Labeled("project", p, "type", "container"))
		set.Add(byStatus, float64(running[p]), metrics.Labeled("project", p, "status", "running"))
		set.Add(byStatus, float64(m.Stopped[p]), metrics.Labeled("project", p, "status", "stopped"))
	}
	bytes := map[string]int64{}
	for _, c := range m.Counts.Images {
		if tell(c.Project) {
			bytes[c.Project] += c.Bytes
			set.Add(images, float64(c.Images), metrics.Labeled("project", c.Project, "architecture", c.Architecture,
				"public", strconv.FormatBool(c.Public), "cached", strconv.FormatBool(c.Cached)))
		}
	}
	for _, p := range m.Counts.Projects {
		if tell(p) {
			set.Add(imageBytes, float64(bytes[p]), metrics.Labeled("project", p))
		}
	}
}
