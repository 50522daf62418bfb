package server

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// TestValuesAreBounded: a body of many values, which would take a hundred times its size,
// is refused before they are made; an instance with as many snapshots as there may be isn't.
func TestValuesAreBounded(t *testing.T) {
	p := start(t)
	form := func(text string) (string, string) {
		return "--b\r\nContent-Disposition: form-data; name=\"instance\"\r\n\r\n" + text + "\r\n--b--\r\n",
			"multipart/form-data; boundary=b"
	}
	body, kind := form(`{"name":"zz","transfer":{"snapshots":[{}` + strings.Repeat(",{}", 2_700_000) + `]}}`)
	lists, _ := form(`{"name":"zz","transfer":{"snapshots":[[]` + strings.Repeat(",[]", 2_700_000) + `]}}`)
	for _, c := range []struct{ method, path, body, kind string }{
		{"POST", "/1.0/kiln/instances", body, kind},
		{"POST", "/1.0/kiln/instances", lists, kind},
		{"POST", "/1.0/images", `{"aliases":[{}` + strings.Repeat(",{}", 1_000_000) + `]}`, "application/json"},
		{"PUT", "/1.0/profiles/default", `{"config":[""` + strings.Repeat(`,""`, 1_000_000) + `]}`, "application/json"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		resp, b := p.do(c.method, c.path, c.body, "Content-Type", c.kind)
		runtime.ReadMemStats(&after)
		if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(b), "values") {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, b)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 100<<20 {
			t.Errorf("%s %s took %d MB", c.method, c.path, took>>20)
		}
	}
	var list []string
	for i := range 10_000 {
		list = append(list, fmt.Sprintf(`{"name":"s%d","architecture":"x86_64","profiles":["default"],"layers":["a","b"],`+
			`"config":{"user.a":"{[{[{[{[,,,,","user.b":"\"{{{{","image.os":"debian","user.c":"x","user.d":"y"},`+
			`"devices":{"root":{"type":"disk","path":"/","pool":"default"},"eth0":{"type":"nic","network":"b"}}}`, i))
	}
	body, kind = form(`{"name":"zz","transfer":{"architecture":"none","snapshots":[` + strings.Join(list, ",") + `]}}`)
	resp, b := p.do("POST", "/1.0/kiln/instances", body, "Content-Type", kind)
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), `\"none\"`) {
		t.Errorf("with many snapshots: %d %s", resp.StatusCode, b)
	}
}
