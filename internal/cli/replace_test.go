package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// through has the daemon of the remote "b" answer as the remote "p", too, but for requests that
// answer takes.
func (s *session) through(answer func(w http.ResponseWriter, r *http.Request) bool) {
	s.t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "kiln"})
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(s.dir, "b", "unix.socket"))
	}}
	path := filepath.Join(s.dir, "p.socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		s.t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if !answer(w, r) {
				proxy.ServeHTTP(w, r)
			}
		})}}
	server.Start()
	s.t.Cleanup(server.Close)
	s.ok("remote add p unix://" + path)
}

// What becomes of both snapshots when the deletion of the old one fails, before and after it is
// gone, and when nobody knows.
func TestReplaceSnapshotFails(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("image copy one b: --alias one")
	s.ok("init b:one b:c1")
	s.ok("storage volume create b:default data")
	var first string // what is deleted before anything is answered
	var cut bool
	s.through(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete || !strings.HasSuffix(r.URL.Path, "/s1") {
			return false
		}
		if first != "" {
			s.ok(first)
		}
		if cut {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"type": "error", "error_code": 500, "error": "no more files"}`)
		return true
	})
	for _, of := range []struct{ snapshot, path, remove string }{
		{"snapshot %s:c1 s1", "instances/c1", "snapshot delete b:c1 s1"},
		{"storage volume snapshot %s:default data s1", "storage-pools/default/volumes/custom/data",
			"storage volume delete b:default data/s1"},
	} {
		s.ok(fmt.Sprintf(of.snapshot, "b"))
		for _, c := range []struct {
			name      string
			gone, cut bool
			code      int
			says      string
			has       []string // the new one expires in 2040
		}{
			{"it stays", false, false, 1, "no more files\n", []string{"s1 0001"}},
			{"it is gone", true, false, 1, "was replaced, but not all of the old one was removed", []string{"s1 2040"}},
			{"it is gone, nobody said so", true, true, 0, "", []string{"s1 2040"}},
			{"nobody knows", false, true, 6, `when "s1" is gone, rename it`, []string{"reuse 2040", "s1 2040"}},
		} {
			if cut, first = c.cut, ""; c.gone {
				first = of.remove
			}
			_, err, code := s.run(fmt.Sprintf(of.snapshot, "p") + " --reuse --expires 2040-01-01")
			if code != c.code || !strings.Contains(err, c.says) {
				t.Errorf("%s: %s: %d %q", of.path, c.name, code, err)
			}
			var list []struct {
				Name      string
				ExpiresAt time.Time `json:"expires_at"`
			}
			out := s.ok("query b:/1.0/" + of.path + "/snapshots?recursion=1")
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				t.Fatal(err, out)
			}
			var has []string
			for _, l := range list {
				name, _, _ := strings.Cut(path.Base(l.Name), "-")
				has = append(has, fmt.Sprintf("%s %04d", name, max(l.ExpiresAt.Year(), 1)))
			}
			if slices.Sort(has); !slices.Equal(has, c.has) {
				t.Errorf("%s: %s: %q", of.path, c.name, has)
			}
		}
	}
}

// An instance that was moved isn't said to be in both places when only the end of its deletion
// failed.
func TestMoveDeletionFails(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("image copy one b: --alias one")
	s.ok("init b:one b:c1")
	s.through(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete || r.URL.Path != "/1.0/instances/c1" {
			return false
		}
		s.ok("delete b:c1")
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"type": "error", "error_code": 500, "error": "no more files"}`)
		return true
	})
	s.listening("p")
	s.fails("move p:c1 c1", 1, `"c1" was moved to "local", but not all of it was removed from "p": no more files`)
	s.ok("info c1")
}
