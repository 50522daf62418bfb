package server

import (
	"slices"
	"testing"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestAsLXD has what the clients of LXD find different, and used to be.
func TestAsLXD(t *testing.T) {
	p := start(t)
	fp := p.upload(formattest.Tiny(t, "a")).Metadata["fingerprint"].(string)
	if o := p.finish("POST", "/1.0/instances", `{"name":"c1","source":{"type":"none"}}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	if o := p.finish("POST", "/1.0/instances/c1/snapshots", `{"name":"s0"}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	// Who never ran was last used in 1970; images that were not used have no time.
	const never, none = "1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"
	for path, want := range map[string]string{"/1.0/instances/c1": never, "/1.0/instances/c1/snapshots/s0": never,
		"/1.0/images/" + fp: none} {
		if has := get[struct {
			LastUsedAt string `json:"last_used_at"`
		}](p, path); has.LastUsedAt != want {
			t.Errorf("%s was last used at %s", path, has.LastUsedAt)
		}
	}
	// Times keep the zone that they were given in.
	const at = "2099-01-02T03:04:05+02:00"
	if o := p.finish("PUT", "/1.0/instances/c1/snapshots/s0", `{"expires_at":"`+at+`"}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	if has := get[struct {
		ExpiresAt string `json:"expires_at"`
	}](p, "/1.0/instances/c1/snapshots/s0"); has.ExpiresAt != at {
		t.Errorf("it expires at %s", has.ExpiresAt)
	}
	// What is unset is gone, wherever it was set.
	p.do("POST", "/1.0/profiles", `{"name":"x","config":{"user.p":"1","user.q":"","user.r":"2"}}`)
	p.do("PUT", "/1.0/profiles/x", `{"config":{"user.p":"","user.r":"2"}}`)
	if has := get[api.Profile](p, "/1.0/profiles/x").Config; len(has) != 1 || has["user.r"] != "2" {
		t.Errorf("the profile has %v", has)
	}
	// The rest of a user's key is the user's.
	const key = `{"config":{"user.⍾ ü/=":"1"}}`
	for _, path := range []string{"/1.0", "/1.0/profiles/x", "/1.0/instances/c1"} {
		if resp, b := p.do("PATCH", path, key); resp.StatusCode/100 != 2 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, b)
		}
	}
	project := get[api.Project](p, "/1.0/projects/default")
	for _, want := range []string{"/1.0/instances/c1", "/1.0/images/" + fp, "/1.0/profiles/default", "/1.0/profiles/x"} {
		if !slices.Contains(project.UsedBy, want) {
			t.Errorf("the project isn't used by %s: %v", want, project.UsedBy)
		}
	}
	// An alias is made once, whatever it points to.
	const alias = `{"name":"a","target":"`
	if resp, b := p.do("POST", "/1.0/images/aliases", alias+fp+`"}`); resp.StatusCode != 201 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	if resp, b := p.do("POST", "/1.0/images/aliases", alias+fp+`"}`); resp.StatusCode != 409 {
		t.Errorf("again: %d %s", resp.StatusCode, b)
	}
}
