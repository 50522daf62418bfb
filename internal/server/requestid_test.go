package server

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestTraces takes the traces that the W3C's text allows, and logs them with the request's name.
func TestTraces(t *testing.T) {
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for header, ok := range map[string]bool{
		"00-" + trace + "-" + span + "-01":      true,
		"cc-" + trace + "-" + span + "-01-more": true,
		"":                                      false,
		"00-" + trace + "-" + span + "-01-more": false,
		"ff-" + trace + "-" + span + "-01":      false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":           false,
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01":          false,
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":            false,
		"00-" + trace + "-" + span:                                     false,
		"00-" + trace + "-" + span + "-01\n":                           false,
		"cc-" + trace + "-" + span + "-01-" + strings.Repeat("x", 999): false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Traceparent", header)
		if got := traceOf(r); (got == trace) != ok || got != "" && !ok {
			t.Errorf("%q: %q", header, got)
		}
		var b bytes.Buffer
		s := &Server{log: slog.New(slog.NewJSONHandler(&b, nil))}
		r.Header.Set(requestHeader, "mine")
		s.logOf(withID(r)).Info("x")
		var line map[string]any
		if err := json.Unmarshal(b.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["request"] != "mine" || (line["trace"] == trace) != ok {
			t.Errorf("%q: %s", header, &b)
		}
	}
}
