package server

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/trust"
)

// documented are the metrics of LXD's manual that a host has which counts everything but huge
// pages.
const documented = `cpu_effective_total cpu_seconds_total filesystem_avail_bytes filesystem_free_bytes
	filesystem_size_bytes memory_Active_anon_bytes memory_Active_bytes memory_Active_file_bytes memory_Cached_bytes
	memory_Dirty_bytes memory_Inactive_anon_bytes memory_Inactive_bytes memory_Inactive_file_bytes memory_Mapped_bytes
	memory_MemAvailable_bytes memory_MemFree_bytes memory_MemTotal_bytes memory_OOM_kills_total memory_RSS_bytes
	memory_Shmem_bytes memory_Swap_bytes memory_Unevictable_bytes memory_Writeback_bytes network_receive_bytes_total
	network_receive_drop_total network_receive_errs_total network_receive_packets_total network_transmit_bytes_total
	network_transmit_drop_total network_transmit_errs_total network_transmit_packets_total procs_total
	api_requests_completed_total api_requests_ongoing go_alloc_bytes_total go_alloc_bytes go_buck_hash_sys_bytes
	go_frees_total go_gc_sys_bytes go_goroutines go_heap_alloc_bytes go_heap_idle_bytes go_heap_inuse_bytes
	go_heap_objects go_heap_released_bytes go_heap_sys_bytes go_lookups_total go_mallocs_total go_mcache_inuse_bytes
	go_mcache_sys_bytes go_mspan_inuse_bytes go_mspan_sys_bytes go_next_gc_bytes go_other_sys_bytes go_stack_inuse_bytes
	go_stack_sys_bytes go_sys_bytes operations_total uptime_seconds warnings_total instances`

// scraped is what a scrape told, by the name of the family.
type scraped map[string]*dto.MetricFamily

// read parses the text format of Prometheus.
func read(t *testing.T, b []byte) scraped {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	if !bytes.HasSuffix(b, []byte("\n# EOF\n")) {
		t.Error("the answer doesn't say that it is whole")
	}
	return families
}

// value gives the sum of the numbers of a family that have some labels.
func (s scraped) value(name string, labels ...string) (sum float64, count int) {
next:
	for _, m := range s[name].GetMetric() {
		for i := 0; i+1 < len(labels); i += 2 {
			if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool {
				return l.GetName() == labels[i] && l.GetValue() == labels[i+1]
			}) {
				continue next
			}
		}
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
		count++
	}
	return sum, count
}

func (p *peer) scrape(path string, header ...string) scraped {
	p.t.Helper()
	resp, b := p.do("GET", "/1.0/metrics"+path, "", header...)
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		p.t.Fatalf("%d %v %s", resp.StatusCode, resp.Header, b)
	}
	return read(p.t.(*testing.T), b)
}

// launch runs a container with a system.
func (p *peer) launch(t *testing.T, name string) {
	t.Helper()
	fp := p.uploadTo(t, "default", formattest.Unified(t))
	if o := p.finish("POST", "/1.0/instances", `{"name":"`+name+`","start":true,"source":{"type":"image","fingerprint":"`+
		fp+`"}}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	p.running(t, name)
}

// TestMetrics reads what is told of a container, by parsers of others.
func TestMetrics(t *testing.T) {
	p := start(t)
	p.launch(t, "c1")
	p.empty("still")
	s := p.scrape("")
	for name := range strings.FieldsSeq(documented) {
		if s["lxd_"+name] == nil {
			t.Errorf("there is no lxd_%s", name)
		}
	}
	for _, c := range []struct {
		name        string
		labels      []string
		least, most float64
	}{
		{"lxd_memory_MemTotal_bytes", []string{"name", "c1", "project", "default", "type", "container"}, 1 << 20, 1 << 50},
		{"lxd_memory_RSS_bytes", []string{"name", "c1"}, 1, 1 << 30},
		{"lxd_cpu_seconds_total", []string{"name", "c1", "mode", "system"}, 0, 600},
		{"lxd_cpu_effective_total", []string{"name", "c1"}, 1, 4096},
		{"lxd_procs_total", []string{"name", "c1"}, 1, 20},
		{"lxd_network_receive_bytes_total", []string{"name", "c1", "device", "lo"}, 0, 1 << 20},
		{"lxd_network_transmit_packets_total", []string{"name", "c1", "device", "eth0"}, 0, 1 << 20},
		{"lxd_filesystem_size_bytes", []string{"name", "c1", "mountpoint", "/"}, 1 << 20, 1 << 60},
		{"kiln_instances", []string{"project", "default", "status", "running"}, 1, 1},
		{"kiln_instances", []string{"project", "default", "status", "stopped"}, 1, 1},
		{"lxd_instances", []string{"project", "default", "type", "container"}, 2, 2},
		{"kiln_images", []string{"project", "default", "public", "false", "cached", "false"}, 1, 1},
		{"kiln_image_store_files", nil, 1, 1},
		{"kiln_build_info", []string{"version", "test"}, 1, 1},
		{"kiln_operations_total", []string{"result", "success"}, 2, 100},
		{"lxd_api_requests_completed_total", []string{"entity_type", "instance", "result", "succeeded"}, 1, 100},
	} {
		if v, n := s.value(c.name, c.labels...); n == 0 || v < c.least || v > c.most {
			t.Errorf("%s%v: %v of %d", c.name, c.labels, v, n)
		}
	}
	if _, n := s.value("lxd_procs_total"); n != 1 {
		t.Errorf("%d instances are told of, and one runs", n)
	}
	// Once it runs no longer, nothing is told of it, and that is no error.
	if o := p.finish("PUT", "/1.0/instances/c1/state", `{"action":"stop","force":true,"timeout":30}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	if _, n := p.scrape("").value("lxd_procs_total"); n != 0 {
		t.Errorf("%d instances are told of, and none runs", n)
	}
}

// exported gives the names that a server exports, of which a container with a disk runs.
func exported(s scraped) map[string]bool {
	names := map[string]bool{}
	for name, f := range s {
		names[name] = true
		if f.GetType() == dto.MetricType_HISTOGRAM {
			names[name+"_bucket"], names[name+"_sum"], names[name+"_count"] = true, true, true
		}
	}
	for _, f := range []string{"read_bytes", "reads_completed", "written_bytes", "writes_completed"} {
		names["lxd_disk_"+f+"_total"] = true // of hosts with disks
	}
	for _, f := range []string{"HugepagesFree", "HugepagesTotal"} {
		names["lxd_memory_"+f+"_bytes"] = true // of those that count huge pages
	}
	return names
}

// TestMetricsAreDocumented compares what is exported with the reference, and what the dashboard
// and the how-to ask for with what is exported.
func TestMetricsAreDocumented(t *testing.T) {
	p := start(t)
	p.launch(t, "c1")
	p.scrape("") // whose time the next one tells
	s := p.scrape("")
	names := exported(s)
	metric := regexp.MustCompile(`\b(?:lxd|kiln)_[A-Za-z_]+[A-Za-z]\b`)
	reference, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:lxd|kiln)_[A-Za-z_]+)").FindAllSubmatch(reference, -1) {
		told[string(m[1])] = true
		if !names[string(m[1])] {
			t.Errorf("the reference has %s, which isn't exported", m[1])
		}
	}
	for name := range s {
		if !told[name] {
			t.Errorf("%s isn't in the reference: %s", name, s[name].GetHelp())
		}
	}
	for _, file := range []string{"../../docs/grafana/kiln.json", "../../docs/how-to/monitor.md"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := metric.FindAllString(string(b), -1)
		if len(found) < 5 {
			t.Errorf("%s names %v", file, found)
		}
		for _, name := range found {
			if !names[name] {
				t.Errorf("%s asks for %s, which isn't exported", file, name)
			}
		}
	}
}

// TestOpenMetrics has the parser of OpenMetrics read what is told, which is strict.
func TestOpenMetrics(t *testing.T) {
	p := start(t)
	p.launch(t, "c1")
	for _, names := range []string{"lxd", "incus"} {
		if resp, b := p.do("PATCH", "/1.0", `{"config":{"core.metrics_names":"`+names+`"}}`); resp.StatusCode != 200 {
			t.Fatalf("%s", b)
		}
		resp, b := p.do("GET", "/1.0/metrics", "", "Accept",
			"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "Accept-Encoding", "gzip")
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/openmetrics-text; version=1.0.0") {
			t.Errorf("%v", resp.Header)
		}
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		parse := exec.Command("/usr/bin/python3", "-c", `import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(*(s.name for f in text_string_to_metric_families(sys.stdin.read()) for s in f.samples))`)
		parse.Stdin = bytes.NewReader(text)
		out, err := parse.CombinedOutput()
		if err != nil || !regexp.MustCompile(` `+names+`_cpu_seconds_total `).Match(out) {
			t.Errorf("%v: %.3000s", err, out)
		}
		if other := map[string]string{"lxd": "incus_", "incus": "lxd_"}[names]; bytes.Contains(text, []byte("\n"+other)) {
			t.Errorf("there are names of both")
		}
	}
}

// TestWhoMayScrape asks as everybody.
func TestWhoMayScrape(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"own"}`)
	p.admin(t, "POST", "/1.0/projects", `{"name":"other"}`)
	certificate := func(typ string, projects string) *x509.Certificate {
		t.Helper()
		cert := clientCert(t)
		p.admin(t, "POST", "/1.0/certificates", `{"type":"`+typ+`","certificate":"`+
			strings.ReplaceAll(trust.PEM(cert), "\n", `\n`)+`"`+projects+`}`)
		return cert
	}
	const restricted = `,"restricted":true,"projects":["own"]`
	all, own := certificate("metrics", ""), certificate("metrics", restricted)
	guest := certificate("client", restricted)
	none := certificate("metrics", `,"restricted":true`)
	for _, c := range []struct {
		who      *x509.Certificate
		query    string
		status   int
		projects string
		server   bool
	}{
		{all, "", 200, "default other own", true},
		{all, "?project=other", 200, "other", false},
		{all, "?project=nothing", 404, "", false},
		{own, "", 200, "own", false},
		{own, "?project=own", 200, "own", false},
		{own, "?project=other", 404, "", false},
		{own, "?project=default", 404, "", false},
		{guest, "", 200, "own", false},
		{guest, "?project=other", 404, "", false},
		{none, "", 403, "", false},
		{clientCert(t), "", 403, "", false},
		{nil, "", 403, "", false},
	} {
		w := p.ask(c.who, "GET", "/1.0/metrics"+c.query, "")
		if w.Code != c.status {
			t.Errorf("%s: %d %.200s", c.query, w.Code, w.Body)
		}
		if w.Code != 200 {
			continue
		}
		s := read(t, w.Body.Bytes())
		var projects []string
		for _, m := range s["lxd_instances"].GetMetric() {
			projects = append(projects, m.Label[0].GetValue())
		}
		if slices.Sort(projects); strings.Join(projects, " ") != c.projects {
			t.Errorf("%q: projects %v", c.query, projects)
		}
		if told := s["lxd_uptime_seconds"] != nil || s["kiln_image_pulls_total"] != nil; told != c.server {
			t.Errorf("%q: of the server: %v", c.query, told)
		}
	}
	p.admin(t, "PATCH", "/1.0", `{"config":{"core.metrics_authentication":"false"}}`)
	if w := p.ask(nil, "GET", "/1.0/metrics", ""); w.Code != 200 || read(t, w.Body.Bytes())["lxd_uptime_seconds"] == nil {
		t.Errorf("without authentication: %d %.300s", w.Code, w.Body)
	}
	if w := p.ask(nil, "GET", "/1.0/instances", ""); w.Code != 403 {
		t.Errorf("something else: %d", w.Code)
	}
}

// TestScrapeAsksLittle counts the queries of a scrape. The daemon has work of its own, so the
// least of some scrapes counts.
func TestScrapeAsksLittle(t *testing.T) {
	p := start(t)
	measure := func(old time.Duration) daemon.Measures {
		t.Helper()
		m, err := p.d.Measure(t.Context(), old)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	const own = 2 // queries of measure
	for _, query := range []string{"", "?project=default"} {
		least := uint64(1 << 62)
		for range 50 {
			before := measure(0).Queries
			if resp, b := p.do("GET", "/1.0/metrics"+query, ""); resp.StatusCode != 200 {
				t.Fatalf("%s", b)
			}
			if least = min(least, measure(0).Queries-before-own); least <= 3 {
				break
			}
		}
		if least == 0 || least > 3 {
			t.Errorf("%q: %d queries", query, least)
		}
	}
	// Who may ask as often as they like has the daemon look once in a while.
	m := measure(0)
	if again := measure(time.Hour); again.Uptime != m.Uptime {
		t.Error("the daemon has looked again")
	}
	if again := measure(0); again.Uptime == m.Uptime {
		t.Error("the daemon hasn't looked again")
	}
}

// TestServedIsCounted fetches pieces of an image.
func TestServedIsCounted(t *testing.T) {
	p := start(t)
	b := formattest.Tiny(t, "1")
	fp := p.upload(b, "X-LXD-public", "true").Metadata["fingerprint"].(string)
	p.do("GET", "/1.0/images/"+fp+"/export", "")
	p.do("GET", "/1.0/images/"+fp+"/export", "", "Range", "bytes=10-19")
	s := p.scrape("")
	if sent, _ := s.value("kiln_image_served_bytes_total", "what", "file"); sent != float64(len(b)+10) {
		t.Errorf("%v bytes of %d and 10", sent, len(b))
	}
	if n, _ := s.value("kiln_image_served_total", "what", "file"); n != 2 {
		t.Errorf("%v requests", n)
	}
	if n, _ := s.value("kiln_image_uploads"); n != 0 {
		t.Errorf("%v are under way", n)
	}
}

// TestMetricsAddress listens where there are only metrics.
func TestMetricsAddress(t *testing.T) {
	p := start(t)
	n := p.s.MetricsListeners(t.Context())
	if err := p.d.ListenForMetrics(t.Context(), n.Listen); err != nil {
		t.Fatal(err)
	}
	address, _ := freeAddress(t)
	p.admin(t, "PATCH", "/1.0", `{"config":{"core.metrics_address":"`+address+`","core.metrics_authentication":"false"}}`)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	c := http.Client{Transport: transport, Timeout: time.Minute}
	for path, status := range map[string]int{"/1.0/metrics": 200, "/1.0": 404, "/": 404, "/1.0/images": 404} {
		resp, err := c.Get("https://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if list := get[api.Server](p, "/1.0").Environment.Addresses; len(list) != 0 {
		t.Errorf("others are told that the API is at %v", list)
	}
	p.admin(t, "PATCH", "/1.0", `{"config":{"core.metrics_address":""}}`)
	if resp, err := c.Get("https://" + address + "/1.0/metrics"); err == nil {
		resp.Body.Close()
		t.Error("the address is still listened on")
	}
}
