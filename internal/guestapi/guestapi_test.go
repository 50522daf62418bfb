package guestapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// told is an instance that a test says something of.
type told struct {
	mu    sync.Mutex
	about About
	err   error
}

func (i *told) About(context.Context) (About, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.about, i.err
}

func (i *told) SetReady(_ context.Context, ready bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.about.Ready = ready
	return i.err
}

func (i *told) SendImage(w http.ResponseWriter, _ *http.Request, fingerprint string) {
	_, _ = io.WriteString(w, "image "+fingerprint)
}

// listen starts a server in a directory whose path is longer than a socket's can be.
func listen(t *testing.T, of Instance) (*Server, *http.Client) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 25))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(dir, uint32(os.Getuid()), of)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	path := "/proc/self/fd/" + fdName(d) + "/" + socketName
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dial net.Dialer
		return dial.DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return s, &http.Client{Transport: transport}
}

func fdName(f *os.File) string {
	b, _ := json.Marshal(f.Fd())
	return string(b)
}

func ask(t *testing.T, c *http.Client, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://lxd"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAnswers(t *testing.T) {
	i := &told{about: About{Name: "c1", ID: "an-id", Config: map[string]string{"user.a/b": "x", "user.meta-data": "m: 1\n",
		"cloud-init.user-data": "#cloud-config", "limits.memory": "1GiB", "volatile.uuid": "secret"},
		Devices: map[string]map[string]string{"eth0": {"type": "nic"}}}}
	_, c := listen(t, i)
	for _, q := range []struct {
		ask, body string
		code      int
		says      string
	}{
		{"GET /", "", 200, `["/1.0"]`},
		{"GET /1.0", "", 200, `"state":"Started"`},
		{"GET /1.0/", "", 200, `"api_version":"1.0"`},
		{"GET /1.0/config", "", 200, `["/1.0/config/cloud-init.user-data","/1.0/config/user.a/b","/1.0/config/user.meta-data"]`},
		{"GET /1.0/config/user.a%2Fb", "", 200, "x"},
		{"GET /1.0/config/user.a/b", "", 200, "x"},
		{"GET /1.0/config/user.none", "", 404, "not found"},
		{"GET /1.0/config/limits.memory", "", 403, "not authorized"},
		{"GET /1.0/config/volatile.uuid", "", 403, "not authorized"},
		{"GET /1.0/meta-data", "", 200, "#cloud-config\ninstance-id: an-id\nlocal-hostname: c1\nm: 1\n"},
		{"GET /1.0/devices", "", 200, `{"eth0":{"type":"nic"}}`},
		{"GET /1.0/events?type=lifecycle", "", 400, "types of events"},
		{"GET /1.0/images/abc/export", "", 403, "not authorized"},
		{"GET /1.0/instances", "", 404, "not found"},
		{"PATCH /1.0", `{"state": "Ready"}`, 200, ""},
		{"GET /1.0", "", 200, `"state":"Ready"`},
		{"PATCH /1.0", `{"state": "Stopped"}`, 400, "Ready or Started"},
		{"PATCH /1.0", `{`, 400, "not JSON"},
		{"PATCH /1.0", strings.Repeat(" ", mostBody) + `{"state": "Started"}`, 400, "not JSON"},
		{"GET /1.0", "", 200, `"state":"Ready"`},
		{"DELETE /1.0/config", "", 405, ""},
	} {
		method, path, _ := strings.Cut(q.ask, " ")
		if code, text := ask(t, c, method, path, q.body); code != q.code || !strings.Contains(text, q.says) {
			t.Errorf("%s: %d %q", q.ask, code, text)
		}
	}
	i.mu.Lock()
	i.about.Images = true
	i.mu.Unlock()
	if code, text := ask(t, c, "GET", "/1.0/images/abc/export", ""); code != 200 || text != "image abc" {
		t.Errorf("export: %d %q", code, text)
	}
	// What went wrong on the host is the host's business.
	i.mu.Lock()
	i.err = errors.New("open /var/lib/kiln: broken")
	i.mu.Unlock()
	if code, text := ask(t, c, "GET", "/1.0/config", ""); code != 500 || strings.Contains(text, "kiln") {
		t.Errorf("an error of the host: %d %q", code, text)
	}
	i.mu.Lock()
	i.err = kiln.Errorf(kiln.NotFound, "no instance")
	i.mu.Unlock()
	if code, _ := ask(t, c, "GET", "/1.0/config", ""); code != 404 {
		t.Errorf("an instance that is gone: %d", code)
	}
}

// TestSocket is the container's root's only, replaces what a daemon left that died, and
// goes with the server. The directory stays.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, socketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(dir, 1000000, &told{})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, socketName), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 1000000 || st.Mode != unix.S_IFSOCK|0o600 {
		t.Errorf("the socket is %d's, mode %o", st.Uid, st.Mode)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestEvents hears of what was changed, on a websocket and in lines, until the server ends.
func TestEvents(t *testing.T) {
	s, c := listen(t, &told{})
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://lxd/1.0/events?type=config", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	ws, _, err := websocket.Dial(t.Context(), "ws://lxd/1.0/events", &websocket.DialOptions{HTTPClient: c})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	was := About{Config: map[string]string{"user.a": "1", "limits.cpu": "1"},
		Devices: map[string]map[string]string{"a": {"type": "disk"}, "b": {"x": "1"}}}
	is := About{Config: map[string]string{"user.a": "2", "limits.cpu": "2"},
		Devices: map[string]map[string]string{"b": {"x": "2"}, "c": {}}}
	s.Changed(was, is)
	var heard []string
	for range 4 {
		_, b, err := ws.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		b, _ = json.Marshal(m["metadata"])
		heard = append(heard, m["type"].(string)+" "+string(b))
	}
	want := []string{`config {"key":"user.a","old_value":"1","value":"2"}`,
		`device {"action":"removed","config":{"type":"disk"},"name":"a"}`,
		`device {"action":"updated","config":{"x":"2"},"name":"b"}`, `device {"action":"added","config":{},"name":"c"}`}
	if strings.Join(heard, "\n") != strings.Join(want, "\n") {
		t.Errorf("heard:\n%s", strings.Join(heard, "\n"))
	}
	line, err := lines.ReadBytes('\n')
	if err != nil || !bytes.Contains(line, []byte(`"old_value":"1"`)) {
		t.Errorf("line %q, %v", line, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := ws.Read(t.Context()); err == nil {
		t.Error("the websocket goes on without a server")
	}
	if rest, err := io.ReadAll(lines); len(rest) > 0 {
		t.Errorf("lines go on: %q, %v", rest, err)
	}
}

// TestFlood answers who asks too often at a pace, and others at once.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		begin := time.Now()
		for range burst {
			p.wait(t.Context())
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("%d requests waited for %v", burst, took)
		}
		for range 40 {
			p.wait(t.Context())
		}
		if took := time.Since(begin); took != 40*step {
			t.Errorf("40 more took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if p.wait(ctx) {
			t.Error("who went was answered")
		}
	})
}

// TestConnections opens as many connections as a container can: those beyond a few wait, and
// are answered once others end.
func TestConnections(t *testing.T) {
	_, c := listen(t, &told{})
	dial := c.Transport.(*http.Transport).DialContext
	var conns []net.Conn
	for range mostConnections + 1 {
		conn, err := dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: lxd\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	answered := func(conn net.Conn, within time.Duration) bool {
		_ = conn.SetReadDeadline(time.Now().Add(within))
		_, err := conn.Read(make([]byte, 12))
		return err == nil
	}
	for i, conn := range conns[:mostConnections] {
		if !answered(conn, time.Minute) {
			t.Fatalf("connection %d isn't answered", i)
		}
	}
	if last := conns[mostConnections]; answered(last, 100*time.Millisecond) {
		t.Errorf("%d connections are served at once", mostConnections+1)
	} else if conns[0].Close(); !answered(last, time.Minute) {
		t.Error("who waited isn't answered")
	}
}

// TestBounds has a container send too much, and hold all the connections that it may have.
func TestBounds(t *testing.T) {
	s, c := listen(t, &told{})
	if s.http.ReadTimeout <= 0 || s.http.WriteTimeout <= 0 || s.http.IdleTimeout <= 0 {
		t.Error("who stalls keeps a connection for ever")
	}
	dial := c.Transport.(*http.Transport).DialContext
	get := func(header string) net.Conn {
		t.Helper()
		conn, err := dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: lxd\r\n"+header+"\r\n"); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answer := func(conn net.Conn) (string, error) { return bufio.NewReader(conn).ReadString('\n') }
	long := get("X: " + strings.Repeat("x", 2*mostHeader) + "\r\n")
	if line, err := answer(long); !strings.Contains(line, " 431 ") || err != nil {
		t.Errorf("a long header: %q, %v", line, err)
	}
	long.Close()
	var held []net.Conn
	for range mostConnections {
		held = append(held, get(""))
		if line, err := answer(held[len(held)-1]); !strings.Contains(line, " 200 ") || err != nil {
			t.Fatalf("%d connections: %q, %v", len(held), line, err)
		}
	}
	next := get("")
	_ = next.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if line, err := answer(next); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more is answered: %q, %v", line, err)
	}
	_ = next.SetReadDeadline(time.Time{})
	held[0].Close()
	if line, err := answer(next); !strings.Contains(line, " 200 ") || err != nil {
		t.Errorf("when another one has gone: %q, %v", line, err)
	}
}
