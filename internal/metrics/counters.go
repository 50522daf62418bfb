package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Counters count what a daemon has done since it began.
type Counters struct {
	registry *prometheus.Registry

	pulls       *prometheus.CounterVec
	pullTime    prometheus.Observer
	pullBytes   *prometheus.CounterVec
	deltas      prometheus.Counter
	downloads   prometheus.Gauge
	served      *prometheus.CounterVec
	servedBytes *prometheus.CounterVec
	serving     prometheus.Gauge
	creations   *prometheus.HistogramVec
	operations  *prometheus.CounterVec
	requests    *prometheus.CounterVec
	ongoing     *prometheus.GaugeVec
	requestTime *prometheus.HistogramVec
}

// How an image came that somebody wanted of another server.
const (
	PullHit        = "hit"        // it was here, and nothing was moved
	PullJoined     = "joined"     // somebody else's download brought it
	PullDownloaded = "downloaded" // it was downloaded
	PullFailed     = "failed"
)

// What is served of images.
const (
	ServedFile  = "file"
	ServedIndex = "index" // a list of a file's chunks
	ServedPatch = "patch"
)

// Seconds that tell a fast answer, a slow one, and one that took long, from each other.
var (
	requestSeconds = []float64{0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10}
	longSeconds    = []float64{0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800}
)

// New makes counters that begin at zero.
func New() *Counters {
	c := &Counters{registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		c.registry.MustRegister(v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		c.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		c.registry.MustRegister(v)
		return v
	}
	c.pulls = counter("kiln_image_pulls_total", "Images wanted of other servers, by how they came.", "result")
	c.pullTime = histogram("kiln_image_pull_seconds", "How long downloads of images took that succeeded.", longSeconds).
		WithLabelValues()
	c.pullBytes = counter("kiln_image_pull_bytes_total",
		"Bytes of downloaded images, by where they came from: the network, or files that were here.", "source")
	c.deltas = counter("kiln_image_delta_pulls_total", "Downloads that were helped by another version that was here.").
		WithLabelValues()
	c.downloads = gauge("kiln_image_downloads", "Images that are being downloaded.").WithLabelValues()
	c.served = counter("kiln_image_served_total", "Requests for files of images, their indexes and patches.", "what")
	c.servedBytes = counter("kiln_image_served_bytes_total", "Bytes sent of these.", "what")
	c.serving = gauge("kiln_image_uploads", "Requests for files of images that are being answered.").WithLabelValues()
	c.creations = histogram("kiln_instance_create_seconds", "How long it took to create instances, with their images.",
		longSeconds, "result")
	c.operations = counter("kiln_operations_total", "Operations that ended, by how.", "result")
	c.requests = counter("lxd_api_requests_completed_total", "Answered requests, by what they were about and their end.",
		"entity_type", "result")
	c.ongoing = gauge("lxd_api_requests_ongoing", "Requests that are being answered, by what they are about.",
		"entity_type")
	c.requestTime = histogram("kiln_api_request_seconds", "How long requests took that wait for nobody.", requestSeconds,
		"method", "route")
	c.begin()
	return c
}

// begin has what is counted by a few words be there from the beginning: who scrapes sees the
// first one as an increase.
func (c *Counters) begin() {
	for _, result := range []string{PullHit, PullJoined, PullDownloaded, PullFailed} {
		c.pulls.WithLabelValues(result)
	}
	for _, source := range []string{"network", "here"} {
		c.pullBytes.WithLabelValues(source)
	}
	for _, what := range []string{ServedFile, ServedIndex, ServedPatch} {
		c.served.WithLabelValues(what)
		c.servedBytes.WithLabelValues(what)
	}
	for _, result := range []string{"success", "failure", "cancelled"} {
		c.operations.WithLabelValues(result)
	}
	for _, result := range []string{"success", "failure"} {
		c.creations.WithLabelValues(result)
	}
}

// Families gives what was counted.
func (c *Counters) Families() ([]*dto.MetricFamily, error) { return c.registry.Gather() }

// Pulled counts an image that somebody wanted of another server.
func (c *Counters) Pulled(result string) { c.pulls.WithLabelValues(result).Inc() }

// A Download is an image on its way.
type Download struct {
	c     *Counters
	began time.Time
}

// Download begins to count a download.
func (c *Counters) Download() Download {
	c.downloads.Inc()
	return Download{c, time.Now()}
}

// End ends one, whose image has so many bytes, of which some came over the network. delta says
// that something was here that helped. Of one that failed, nothing but the end counts.
func (d Download) End(err error, size, moved int64, delta bool) {
	d.c.downloads.Dec()
	if err != nil {
		return
	}
	d.c.pullTime.Observe(time.Since(d.began).Seconds())
	moved = min(max(moved, 0), size)
	d.c.pullBytes.WithLabelValues("network").Add(float64(moved))
	d.c.pullBytes.WithLabelValues("here").Add(float64(size - moved))
	if delta {
		d.c.deltas.Inc()
	}
}

// Serve counts a request for something of an image; at its end, what was sent.
func (c *Counters) Serve(what string) (end func(bytes int64)) {
	c.served.WithLabelValues(what).Inc()
	c.serving.Inc()
	return func(bytes int64) {
		c.serving.Dec()
		c.servedBytes.WithLabelValues(what).Add(float64(bytes))
	}
}

// Created counts an instance that was made, or wasn't.
func (c *Counters) Created(began time.Time, err error) {
	result := "success"
	if err != nil {
		result = "failure"
	}
	c.creations.WithLabelValues(result).Observe(time.Since(began).Seconds())
}

// Operation counts one that ended.
func (c *Counters) Operation(result string) { c.operations.WithLabelValues(result).Inc() }

// A Route is how requests for one path of the API are counted.
type Route struct {
	c                    *Counters
	entity, method, path string
	ongoing              prometheus.Gauge
	waits                bool // for somebody: the time says nothing
}

// Route makes what counts the requests for a path, of one method, about something. Those that
// wait for somebody aren't timed.
func (c *Counters) Route(entity, method, path string, waits bool) Route {
	r := Route{c: c, entity: entity, method: method, path: path, waits: waits,
		ongoing: c.ongoing.WithLabelValues(entity)}
	for _, result := range []string{"succeeded", "error_client", "error_server"} {
		c.requests.WithLabelValues(entity, result)
	}
	return r
}

// Begin counts one more request. Its end tells how it ended: "succeeded", "error_client" or
// "error_server".
func (r Route) Begin() (end func(result string)) {
	began := time.Now()
	r.ongoing.Inc()
	return func(result string) {
		r.ongoing.Dec()
		r.c.requests.WithLabelValues(r.entity, result).Inc()
		if !r.waits {
			r.c.requestTime.WithLabelValues(r.method, r.path).Observe(time.Since(began).Seconds())
		}
	}
}
