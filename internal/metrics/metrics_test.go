package metrics

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func text(t *testing.T, s *Set, accept string) string {
	t.Helper()
	var b strings.Builder
	if err := s.Write(&b, Accepted(http.Header{"Accept": {accept}})); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestFormats writes the same in both formats: counters have another name in the one.
func TestFormats(t *testing.T) {
	var s Set
	of := Labeled("name", "c\"1\n", "device", "e\xff")
	s.Add(Family{"lxd_b_total", "Second.", Counter}, 1.5, of.With("cpu", "0"))
	s.Add(Family{"lxd_a", "First.", Gauge}, 2, of)
	s.Add(Family{"lxd_a_total", "Third.", Unknown}, 3, nil)
	s.Rename("lxd_", "incus_")
	const samples = `incus_a{device="e�",name="c\"1\n"} 2
`
	want := "# HELP incus_a First.\n# TYPE incus_a gauge\n" + samples +
		"# HELP incus_a_total Third.\n# TYPE incus_a_total untyped\nincus_a_total 3\n" +
		"# HELP incus_b_total Second.\n# TYPE incus_b_total counter\n" +
		`incus_b_total{cpu="0",device="e�",name="c\"1\n"} 1.5` + "\n# EOF\n"
	for _, accept := range []string{"", "*/*", "text/plain", "application/vnd.google.protobuf", "text/html"} {
		if got := text(t, &s, accept); got != want {
			t.Errorf("%q: %s", accept, got)
		}
	}
	got := text(t, &s, "application/openmetrics-text;version=1.0.0")
	for _, line := range []string{"# TYPE incus_b counter\n", "incus_b_total{", "# TYPE incus_a_total unknown\n", "\n# EOF\n"} {
		if !strings.Contains(got, line) || strings.Count(got, "# EOF") != 1 {
			t.Errorf("no %q in %s", line, got)
		}
	}
}

// TestCounters counts one of everything.
func TestCounters(t *testing.T) {
	c := New()
	c.Pulled(PullHit)
	c.Download().End(nil, 100, 30, true)
	c.Download().End(errors.New("x"), 100, 30, true)
	c.Serve(ServedPatch)(7)
	c.Created(time.Now(), nil)
	c.Operation("failure")
	r := c.Route("image", "GET", "/1.0/images", false)
	r.Begin()("succeeded")
	r.Begin()
	c.Route("server", "GET", "/1.0/events", true).Begin()("error_client")
	families, err := c.Families()
	if err != nil {
		t.Fatal(err)
	}
	var s Set
	s.Merge(families)
	got := text(t, &s, "")
	for _, line := range []string{
		`kiln_image_pulls_total{result="hit"} 1`, `kiln_image_pulls_total{result="failed"} 0`,
		`kiln_image_pull_bytes_total{source="network"} 30`, `kiln_image_pull_bytes_total{source="here"} 70`,
		`kiln_image_delta_pulls_total 1`, `kiln_image_downloads 0`, `kiln_image_pull_seconds_count 1`,
		`kiln_image_served_bytes_total{what="patch"} 7`, `kiln_image_uploads 0`,
		`kiln_instance_create_seconds_count{result="success"} 1`, `kiln_operations_total{result="failure"} 1`,
		`lxd_api_requests_completed_total{entity_type="image",result="succeeded"} 1`,
		`lxd_api_requests_completed_total{entity_type="server",result="error_client"} 1`,
		`lxd_api_requests_ongoing{entity_type="image"} 1`,
		`kiln_api_request_seconds_count{method="GET",route="/1.0/images"} 1`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	if strings.Contains(got, `route="/1.0/events"`) {
		t.Error("the time of a request that waits is told")
	}
}
