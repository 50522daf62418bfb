package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pkg/sftp"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
)

// empty makes an instance without files.
func (p *peer) empty(name string) {
	p.t.Helper()
	o, err := p.d.CreateInstance(p.t.Context(), daemon.CreateSpec{Name: name, Source: daemon.Source{Type: "none"}})
	if err == nil {
		err = o.Wait(p.t.Context()).Err
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestFiles speaks to /files as clients of both families do.
func TestFiles(t *testing.T) {
	p := start(t)
	p.empty("c")
	const at = "/1.0/instances/c/files?path="
	for _, c := range []struct {
		method, path, body, headers string
		status                      int
		answer                      string
	}{
		{"POST", "d", "", "X-LXD-type: directory, X-LXD-mode: 0750", 200, ""},
		{"POST", "d%2Ff", "one", "X-LXD-uid: 3, X-LXD-gid: 4, X-LXD-mode: 0640", 200, ""},
		{"GET", "/d/f", "", "", 200, "one"},
		{"POST", "/d/f", "+two", "X-Incus-write: append, X-Incus-uid: 9", 200, ""},
		{"GET", "d/f", "", "", 200, "one+two"},
		{"POST", "d/f", "three", "X-LXD-uid: 9, X-LXD-mode: 0600, X-LXD-modify-perm: mode", 200, ""},
		{"GET", "/d/../d//f", "", "", 200, "three"},
		{"POST", "d/l", "f", "X-LXD-type: symlink", 200, ""},
		{"GET", "d/l", "", "", 200, "f"},
		{"GET", "d", "", "", 200, `"metadata":["f","l"]`},
		{"POST", "empty", "", "", 200, ""},
		{"GET", "empty", "", "", 200, ""},
		{"GET", "", "", "", 400, "path of the file is missing"},
		{"GET", "a%00b", "", "", 400, "NUL byte"},
		{"GET", "nothing", "", "", 404, "no such file"},
		{"POST", "d", "x", "", 409, "is a directory"},
		{"POST", "x", "x", "X-LXD-uid: me", 400, `\"me\" is no uid`},
		{"POST", "x", "x", "X-LXD-gid: 4294967295", 400, "is no gid"},
		{"POST", "x", "x", "X-LXD-mode: 0888", 400, "is no mode"},
		{"POST", "x", "x", "X-LXD-type: fifo", 400, "is no type"},
		{"POST", "x", "x", "X-LXD-write: prepend", 400, "no way to write"},
		{"POST", "x", "x", "X-LXD-modify-perm: owner", 400, "modify-perm"},
		{"POST", "x", strings.Repeat("x", maxTarget+1), "X-LXD-type: symlink", 413, "larger than"},
		{"POST", "x", "", "X-LXD-type: symlink", 400, "target of a symbolic link"},
		{"GET", "x", "", "", 404, ""}, // none of these made it
		{"DELETE", "d", "", "", 409, "not empty"},
		{"DELETE", "d/l", "", "", 200, ""},
		{"DELETE", "d/l", "", "", 404, "no such file"},
		{"DELETE", "/", "", "", 400, "delete the instance"},
	} {
		var headers []string
		for line := range strings.SplitSeq(c.headers, ", ") {
			k, v, _ := strings.Cut(line, ": ")
			headers = append(headers, k, v)
		}
		if c.headers == "" {
			headers = nil
		}
		resp, b := p.do(c.method, at+c.path, c.body, headers...)
		if resp.StatusCode != c.status || !strings.Contains(string(b), c.answer) {
			t.Errorf("%s %s (%s): %d %s", c.method, c.path, c.headers, resp.StatusCode, b)
		}
	}
	for _, method := range []string{"HEAD", "GET"} {
		resp, _ := p.do(method, at+"d/f", "")
		for _, family := range []string{"X-LXD-", "X-Incus-"} {
			h := resp.Header
			got := []string{h.Get(family + "uid"), h.Get(family + "gid"), h.Get(family + "mode"), h.Get(family + "type"),
				fmt.Sprint(resp.ContentLength)}
			if strings.Join(got, " ") != "3 4 0600 file 5" {
				t.Errorf("%s %s: %q", method, family, got)
			}
		}
	}
	if resp, b := p.do("GET", "/1.0/instances/nothing/files?path=/", ""); resp.StatusCode != 404 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

// TestRestrictedFiles: who may run commands in an instance may have its files.
func TestRestrictedFiles(t *testing.T) {
	p := start(t)
	p.empty("c")
	guest := p.guest(t)
	for _, c := range []struct {
		method string
		status int
	}{{"POST", 200}, {"GET", 200}, {"DELETE", 200}} {
		if w := p.ask(guest, c.method, "/1.0/instances/c/files?path=/f", "x"); w.Code != c.status {
			t.Errorf("%s: %d %s", c.method, w.Code, w.Body)
		}
		if w := p.ask(nil, c.method, "/1.0/instances/c/files?path=/f", "x"); w.Code != http.StatusForbidden {
			t.Errorf("untrusted %s: %d %s", c.method, w.Code, w.Body)
		}
	}
}

// TestSFTP has a connection become one that speaks SFTP, and end with the instance.
func TestSFTP(t *testing.T) {
	p := start(t)
	p.empty("c")
	if resp, b := p.do("GET", "/1.0/instances/c/sftp", ""); resp.StatusCode != 400 ||
		!strings.Contains(string(b), "Upgrade") {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	c, err := p.Transport.(*http.Transport).DialContext(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The first message comes right behind the request.
	first := "\x00\x00\x00\x05\x01\x00\x00\x00\x03"
	if _, err := fmt.Fprintf(c, "GET /1.0/instances/c/sftp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+
		"sftp\r\n\r\n%s", first); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "sftp" {
		t.Fatalf("%v, %v", resp, err)
	}
	client, err := sftp.NewClientPipe(in, repeated{c, &first})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Mkdir("/made"); err != nil {
		t.Error(err)
	}
	if resp, _ := p.do("GET", "/1.0/instances/c/files?path=/made", ""); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	o, err := p.d.RenameInstance(t.Context(), "c", "d")
	if err == nil {
		err = o.Wait(t.Context()).Err
	}
	if err != nil {
		t.Error(err)
	}
	if err := client.Wait(); err == nil {
		t.Error("the connection goes on without an error")
	}
}

// repeated is a connection on which the first message was sent already.
type repeated struct {
	net.Conn
	first *string
}

// Write implements io.Writer.
func (r repeated) Write(b []byte) (int, error) {
	n := min(len(b), len(*r.first))
	*r.first = (*r.first)[n:]
	m, err := r.Conn.Write(b[n:])
	return n + m, err
}

// FuzzFileSpec reads headers of every sort.
func FuzzFileSpec(f *testing.F) {
	f.Add("0", "-1", "0644", "file", "overwrite", "uid,gid,mode")
	f.Add("x", "4294967295", "08", "fifo", "", ",")
	f.Fuzz(func(t *testing.T, uid, gid, mode, kind, write, modify string) {
		r := httptest.NewRequest("POST", "/1.0/instances/c/files", nil)
		for name, v := range map[string]string{"uid": uid, "gid": gid, "mode": mode, "type": kind, "write": write,
			"modify-perm": modify} {
			r.Header["X-Lxd-"+strings.ToUpper(name[:1])+name[1:]] = []string{v}
		}
		spec, keep, err := parseFileSpec(r)
		if err != nil {
			return
		}
		if spec.Mode != nil && *spec.Mode > 0o7777 || spec.UID != nil && *spec.UID == 1<<32-1 ||
			keep.Mode != nil && keep.Mode != spec.Mode {
			t.Errorf("%+v, %+v", spec, keep)
		}
	})
}

// TestMeantInstance asks about an instance by its name and UUID: another one of that name is
// neither shown nor changed.
func TestMeantInstance(t *testing.T) {
	p := start(t)
	p.empty("c")
	uuid := get[api.Instance](p, "/1.0/instances/c").Config["volatile.uuid"]
	for _, c := range []struct{ method, path, body string }{
		{"GET", "", ""}, {"GET", "/state", ""}, {"POST", "/files?path=f", "x"}, {"GET", "/files?path=f", ""},
		{"PATCH", "", "{}"}, {"POST", "/snapshots", `{"name": "s"}`}, {"GET", "/snapshots/s", ""}, {"DELETE", "", ""},
		{"PUT", "/state", `{"action": "start"}`}, {"POST", "/console", "{}"}, {"POST", "/exec", `{"command": ["true"]}`},
		{"GET", "/console", ""}, {"GET", "/backups", ""}, {"POST", "", `{"name": "d"}`}, {"GET", "/logs", ""},
		{"GET", "/metadata", ""}, {"POST", "/backups", "{}"}, {"POST", "/rebuild", `{"source": {"type": "none"}}`},
	} {
		q := "?"
		if strings.Contains(c.path, "?") {
			q = "&"
		}
		for _, name := range []string{"c", "containers"} {
			path := "/1.0/instances/c" + c.path + q + "uuid=b1946ac9-2a5b-4f4f-9b1c-000000000000"
			if name == "containers" {
				path = strings.Replace(path, "instances", name, 1)
			}
			r, b := p.do(c.method, path, c.body)
			if r.StatusCode != http.StatusConflict || !strings.Contains(string(b), "is another one now") {
				t.Errorf("%s %s: %d %s", c.method, path, r.StatusCode, b)
			}
		}
		if c.method == "GET" && c.path == "" || c.path == "/files?path=f" {
			if r, b := p.do(c.method, "/1.0/instances/c"+c.path+q+"uuid="+uuid, c.body); r.StatusCode != http.StatusOK {
				t.Errorf("%s %s of the one that is meant: %d %s", c.method, c.path, r.StatusCode, b)
			}
		}
	}
}
