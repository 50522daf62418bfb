package server

import (
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/api"
)

// outcome asks for something and gives the answer: that of the operation, if it is one.
func (p *peer) outcome(as *x509.Certificate, method, path, body string) string {
	w := p.ask(as, method, path, body)
	var a api.Response
	if err := json.Unmarshal(w.Body.Bytes(), &a); err == nil && a.Operation != "" {
		w = p.ask(as, "GET", a.Operation+"/wait", "")
	}
	return w.Body.String()
}

// admin does something as who may, on the socket.
func (p *peer) admin(t *testing.T, method, path, body string) {
	t.Helper()
	resp, b := p.do(method, path, body)
	var a api.Response
	if err := json.Unmarshal(b, &a); err != nil || resp.StatusCode >= 400 {
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	if a.Operation == "" {
		return
	}
	if _, b := p.do("GET", a.Operation+"/wait", ""); !strings.Contains(string(b), `"Success"`) {
		t.Fatalf("%s %s: %s", method, path, b)
	}
}

// TestRestrictedSnapshotProfiles: a snapshot may have a profile that the instance has no
// more, and a restricted client doesn't get what that gives.
func TestRestrictedSnapshotProfiles(t *testing.T) {
	p := start(t)
	guest := guestOf(t, p)
	p.admin(t, "POST", "/1.0/profiles", `{"name":"priv","config":{"security.privileged":"true"}}`)
	p.admin(t, "POST", "/1.0/instances", `{"name":"c","profiles":["default","priv"],"source":{"type":"none"}}`)
	p.admin(t, "POST", "/1.0/instances/c/snapshots", `{"name":"s"}`)
	p.admin(t, "PATCH", "/1.0/instances/c", `{"profiles":["default"]}`)
	for _, c := range [][3]string{
		{"PUT", "/1.0/instances/c", `{"restore":"s"}`},
		{"POST", "/1.0/instances", `{"name":"x","source":{"type":"copy","source":"c/s"}}`},
		{"POST", "/1.0/instances", `{"name":"x","source":{"type":"copy","source":"c"}}`},
	} {
		if answer := p.outcome(guest, c[0], c[1], c[2]); !strings.Contains(answer, "restricted client") {
			t.Errorf("%s %s %s: %s", c[0], c[1], c[2], answer)
		}
	}
}

// TestRestrictedDefaultProfile: what the default profile gives, everybody has.
func TestRestrictedDefaultProfile(t *testing.T) {
	for _, given := range []string{`{"config":{"security.privileged":"true"}}`,
		`{"devices":{"data":{"type":"disk","source":"/tmp","path":"/mnt"}}}`} {
		t.Run(given, func(t *testing.T) {
			p := start(t)
			guest := guestOf(t, p)
			p.admin(t, "PATCH", "/1.0/profiles/default", given)
			for _, c := range [][3]string{
				{"POST", "/1.0/instances", `{"name":"c","source":{"type":"none"}}`},
				{"PATCH", "/1.0/instances/c", `{"description":"mine"}`},
				{"POST", "/1.0/instances/c/snapshots", `{"name":"s"}`},
				{"PUT", "/1.0/instances/c", `{"restore":"s"}`},
			} {
				answer := p.outcome(guest, c[0], c[1], c[2])
				if strings.Contains(answer, `"error_code":4`) || strings.Contains(answer, "Failure") {
					t.Errorf("%s %s %s: %s", c[0], c[1], c[2], answer)
				}
			}
		})
	}
}
