package client

import (
	"net/url"
	"testing"
)

// TestURL puts the project of a client into paths that have a query themselves.
func TestURL(t *testing.T) {
	c := Unix("/none").WithProject("team")
	for path, want := range map[string]string{
		"/1.0/instances":                         "project=team",
		"/1.0/instances?recursion=1":             "project=team&recursion=1",
		"/1.0/instances/c1?x=a%20b":              "project=team&x=a+b",
		"/1.0/instances?project=other":           "project=other",
		"/1.0/instances?all-projects=true&x=y":   "all-projects=true&x=y",
		"/1.0/instances?recursion=1&project=%41": "project=A&recursion=1",
	} {
		u, err := url.Parse(c.URL(path))
		if err != nil {
			t.Fatal(err)
		}
		if got := u.Query().Encode(); got != want || u.Path == "" {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if u, err := url.Parse(c.AllProjects().url("/1.0/instances?recursion=1", url.Values{"filter": {"a"}})); err != nil ||
		u.Query().Encode() != "all-projects=true&filter=a&recursion=1" {
		t.Errorf("%v, %v", u, err)
	}
}
