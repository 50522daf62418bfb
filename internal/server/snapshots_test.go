package server

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln/api"
)

// finish sends a request that becomes an operation and gives that at its end.
func (p *peer) finish(method, path, body string, header ...string) api.Operation {
	p.t.Helper()
	_, b := p.do(method, path, body, append([]string{"Content-Type", "application/json"}, header...)...)
	var a api.Response
	if err := json.Unmarshal(b, &a); err != nil || a.Type != "async" {
		p.t.Fatalf("%s %s: %s", method, path, b)
	}
	return get[api.Operation](p, a.Operation+"/wait")
}

func TestSnapshots(t *testing.T) {
	p := start(t)
	if o := p.finish("POST", "/1.0/instances",
		`{"name":"c1","source":{"type":"none"},"config":{"snapshots.expiry":"1d"}}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	const list = "/1.0/instances/c1/snapshots"
	o := p.finish("POST", list, `{"name":"s0","expires_at":null}`)
	want := map[string][]string{
		"instances": {"/1.0/instances/c1"}, "containers": {"/1.0/containers/c1"},
		"instances_snapshots": {list + "/s0"}, "containers_snapshots": {"/1.0/containers/c1/snapshots/s0"},
	}
	if d := cmp.Diff(want, o.Resources); d != "" || o.Err != "" {
		t.Errorf("%s %s", d, o.Err)
	}
	o = p.finish("POST", list, `{"expires_at":"0001-01-01T00:00:00Z"}`)
	if d := cmp.Diff([]string{list + "/snap0"}, o.Resources["instances_snapshots"]); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{list + "/s0", list + "/snap0"}, get[[]string](p, list)); d != "" {
		t.Error(d)
	}
	objects := get[[]api.InstanceSnapshot](p, list+"?recursion=1")
	if len(objects) != 2 || objects[0].Name != "s0" || objects[0].ExpiresAt.IsZero() || !objects[1].ExpiresAt.IsZero() ||
		objects[0].ExpandedDevices["root"] == nil {
		t.Errorf("%+v", objects)
	}
	for _, path := range []string{"/1.0/instances?recursion=2", "/1.0/instances/c1?recursion=1"} {
		_, b := p.do("GET", path, "")
		if strings.Count(string(b), `"stateful":false,"size":`) != 2 {
			t.Errorf("%s: %s", path, b)
		}
	}
	// Times, with the state that they stand for.
	resp, _ := p.do("GET", list+"/s0", "")
	if resp, b := p.do("PUT", list+"/s0", `{"expires_at":"2099-01-02T00:00:00Z"}`, "If-Match", `"other"`); resp.StatusCode != 412 {
		t.Errorf("%s", b)
	}
	if o := p.finish("PUT", list+"/s0", `{"expires_at":"2099-01-02T00:00:00Z"}`, "If-Match", resp.Header.Get("ETag")); o.Err != "" {
		t.Error(o.Err)
	}
	if o := p.finish("PATCH", list+"/s0", `{}`); o.Err != "" {
		t.Error(o.Err)
	}
	if s := get[api.InstanceSnapshot](p, list+"/s0"); s.ExpiresAt.Year() != 2099 {
		t.Errorf("%v", s.ExpiresAt)
	}
	if o := p.finish("POST", list+"/s0", `{"name":"s1"}`); o.Err != "" {
		t.Error(o.Err)
	}
	for _, snap := range []string{"s1", "c1/s1"} {
		if o := p.finish("PUT", "/1.0/instances/c1", `{"restore":"`+snap+`"}`); o.Err != "" {
			t.Errorf("restore %s: %s", snap, o.Err)
		}
	}
	if o := p.finish("POST", "/1.0/instances", `{"name":"c2","source":{"type":"copy","source":"c1/s1"}}`); o.Err != "" {
		t.Error(o.Err)
	}
	if o := p.finish("POST", "/1.0/instances", `{"name":"c3","source":{"type":"copy","source":"c1"}}`); o.Err != "" ||
		len(get[[]string](p, "/1.0/instances/c3/snapshots")) != 2 {
		t.Error(o.Err)
	}
	if o := p.finish("DELETE", "/1.0/containers/c1/snapshots/s1", ""); o.Err != "" {
		t.Error(o.Err)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		has                string
	}{
		{"GET", list + "/s1", "", 404, "has no snapshot"},
		{"DELETE", list + "/s1", "", 404, "has no snapshot"},
		{"PUT", "/1.0/instances/c1", `{"restore":"s1"}`, 404, "has no snapshot"},
		{"PUT", "/1.0/instances/c1", `{"restore":"c2/s1"}`, 400, "a snapshot of another"},
		{"POST", list, `{"name":"snap0"}`, 409, "already exists"},
		{"POST", list, `{"name":"a b"}`, 400, "white space"},
		{"POST", list, `{"name":"x","stateful":true}`, 400, "stateful"},
		{"POST", "/1.0/instances/nothing/snapshots", `{}`, 404, "not found"},
		{"GET", "/1.0/instances/nothing/snapshots", ``, 404, "not found"},
		{"POST", "/1.0/instances", `{"name":"c4","source":{"type":"copy","source":"c1/x"}}`, 404, "has no snapshot"},
		{"POST", "/1.0/images", `{"source":{"type":"snapshot","name":"c1/x"}}`, 404, "has no snapshot"},
		{"POST", "/1.0/images", `{"source":{"type":"instance","name":"c1"},"compression_algorithm":"sh -c x"}`, 400,
			"Invalid compression algorithm"},
		{"POST", "/1.0/images", `{"source":{"type":"instance","name":"c1"},"format":"flat"}`, 400, "format"},
	} {
		resp, b := p.do(c.method, c.path, c.body, "Content-Type", "application/json")
		if resp.StatusCode != c.status || !strings.Contains(string(b), c.has) {
			t.Errorf("%s %s: %d %.300s; want %d with %q", c.method, c.path, resp.StatusCode, b, c.status, c.has)
		}
	}
}
