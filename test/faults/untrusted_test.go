package faults

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/trust"
)

// untrusted gives what somebody talks to a daemon with whom nobody trusts, but who
// has a certificate.
func untrusted(t *testing.T) (*http.Client, tls.Certificate) {
	t.Helper()
	own, err := trust.Ensure(t.TempDir(), "client", trust.Client)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{own}}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}, own
}

// An answer is all that a server lets somebody know.
type answer struct {
	status int
	kind   string
	body   string
}

// ask sends a request and gives the answer, in which what was typed is "TYPED".
func ask(t *testing.T, hc *http.Client, h *host, method, path, body string, header http.Header,
	typed ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, "https://"+h.Address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{resp.StatusCode, resp.Header.Get(api.KindHeader), string(b)}
	for _, w := range typed {
		a.body = strings.ReplaceAll(a.body, w, "TYPED")
	}
	if resp.Header.Get("ETag") != "" {
		a.kind += " with an ETag"
	}
	return a
}

// A name is what an untrusted client may guess of an image.
type name struct{ alias, fp, hash string }

// routes are what an untrusted client may ask about an image.
func routes(n name) []string {
	var list []string
	for _, word := range []string{n.fp, n.fp[:12], n.fp[:2], strings.ToUpper(n.fp), n.alias} {
		list = append(list, "/1.0/images/"+word, "/1.0/images/"+word+"/export", "/1.0/kiln/images/"+word+"/files/"+n.hash,
			"/1.0/images/aliases/"+word, "/lxd/"+word, "/i/"+word, "/streams/files/"+word+"/unified.tar",
			"/streams/files/"+word+"/rootfs.tar",
			"/1.0/images/"+word+"/refresh", "/1.0/images/"+word+"/secret", "/1.0/images/"+word+"/verify")
	}
	return append(list, "/1.0/images?filter=fingerprint+eq+"+n.fp, "/1.0/images?recursion=1&filter=fingerprint+eq+"+n.fp,
		"/streams/v1/"+n.fp)
}

// TestPrivate asks for a private image, and for one that isn't there: nobody whom
// the server doesn't trust can tell one from the other.
func TestPrivate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	public := split(t, "public", 10<<10)
	h.holds(public, "--public", "--alias", "open")
	private := split(t, "private", 10<<10)
	h.holds(private, "--alias", "hushhush")
	one := unified(t, "private one", 10<<10)
	h.holds(one, "--alias", "single")
	absent := name{"absent", image{[]byte("absent")}.fingerprint().String(),
		image{[]byte("nothing")}.fingerprint().String()}
	hc, _ := untrusted(t)
	bare := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer bare.CloseIdleConnections()
	guess := strings.Repeat("ab", 32)
	for _, there := range []name{
		{"hushhush", private.fingerprint().String(), image{private[1]}.fingerprint().String()},
		{"single", one.fingerprint().String(), one.fingerprint().String()},
	} {
		theirs, none := routes(there), routes(absent)
		for i := range theirs {
			for _, more := range []string{"", "?secret=" + guess, "?secret="} {
				if strings.Contains(theirs[i], "?") {
					more = strings.Replace(more, "?", "&", 1)
				}
				methods := []string{"GET", "HEAD"}
				if more == "" {
					methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
				}
				for _, method := range methods {
					a := ask(t, hc, h, method, theirs[i]+more, "{}", nil, typedOf(there)...)
					b := ask(t, hc, h, method, none[i]+more, "{}", nil, typedOf(absent)...)
					c := ask(t, bare, h, method, theirs[i]+more, "{}", nil, typedOf(there)...)
					if a != b || a != c {
						t.Errorf("%s %s is answered %+v, one that isn't there %+v, somebody without a certificate %+v", method,
							theirs[i]+more, a, b, c)
					}
				}
			}
		}
	}
	checkLists(t, hc, h, private, one)
	checkOtherWays(t, hc, h, private, public)
}

func typedOf(n name) []string {
	return []string{n.fp, strings.ToUpper(n.fp), n.fp[:12], "/" + n.fp[:2], n.alias, n.hash}
}

// checkLists reads what an untrusted client may list: nothing of private images is in it.
func checkLists(t *testing.T, hc *http.Client, h *host, private ...image) {
	t.Helper()
	for _, path := range []string{"/1.0/images", "/1.0/images?recursion=1", "/streams/v1/index.json",
		"/streams/v1/images.json", "/1.0", "/"} {
		a := ask(t, hc, h, "GET", path, "", nil)
		if a.status != http.StatusOK {
			t.Errorf("%s: %d", path, a.status)
		}
		for _, img := range private {
			if strings.Contains(a.body, img.fingerprint().String()) || strings.Contains(a.body, "hushhush") {
				t.Errorf("%s tells of a private image: %s", path, a.body)
			}
		}
	}
}

// checkOtherWays tries to get at a private image through what is open to untrusted clients.
func checkOtherWays(t *testing.T, hc *http.Client, h *host, private, public image) {
	t.Helper()
	fp, hash := private.fingerprint().String(), image{private[1]}.fingerprint().String()
	gate := "/1.0/images/" + public.fingerprint().String()
	if a := ask(t, hc, h, "GET", "/1.0/kiln/images/"+public.fingerprint().String()+"/files/"+hash, "", nil); a.status != http.StatusNotFound {
		t.Errorf("a file of a private image by way of a public one: %+v", a)
	}
	if a := ask(t, hc, h, "GET", gate+"/export", "", nil); a.status != http.StatusOK ||
		bytes.Contains([]byte(a.body), private[1][1024:2048]) {
		t.Errorf("the public image: %d", a.status)
	}
	pull := fmt.Sprintf(`{"source":{"type":"image","mode":"pull","server":"https://%s","protocol":"lxd","fingerprint":%q},"public":true}`, h.Address, fp)
	push := fmt.Sprintf(`{"source":{"type":"image","mode":"push","fingerprint":%q},"public":true}`, fp)
	for _, body := range []string{pull, push, strings.ReplaceAll(pull, fp, strings.Repeat("ab", 32)), "{}"} {
		a := ask(t, hc, h, "POST", "/1.0/images", body, http.Header{"Content-Type": {"application/json"}})
		if a.status != http.StatusForbidden {
			t.Errorf("%s: %+v", body, a)
		}
	}
	for _, word := range []string{fp, strings.Repeat("ab", 32)} {
		a := ask(t, hc, h, "POST", "/1.0/images", string(private[0]), http.Header{"X-Lxd-Fingerprint": {word},
			"X-Lxd-Secret": {"x"}, "X-Lxd-Public": {"1"}})
		if a.status != http.StatusForbidden {
			t.Errorf("an upload of %s: %+v", word, a)
		}
	}
	if a := ask(t, hc, h, "GET", "/1.0/images/"+fp, "", nil); a.status != http.StatusNotFound {
		t.Errorf("the image is open now: %+v", a)
	}
}

// TestRestricted has a client who may see no project: to whom a private image isn't
// there either.
func TestRestricted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	private := unified(t, "restricted", 10<<10)
	fp := h.holds(private, "--alias", "hushhush").String()
	hc, own := untrusted(t)
	path := filepath.Join(h.Home, "client.crt")
	writeFile(t, path, trust.PEM(own.Leaf))
	h.ok("project", "create", "elsewhere")
	h.ok("config", "trust", "add", path, "--name", "r", "--restricted", "--projects", "elsewhere")
	pull := fmt.Sprintf(`{"source":{"type":"image","mode":"pull","server":"https://%s","protocol":"lxd","fingerprint":%q}}`, h.Address, fp)
	for path, body := range map[string]string{"/1.0/images": pull, "/1.0/images/" + fp + "/secret": "{}",
		"/1.0/certificates": `{"type":"client","token":true}`, "/1.0/images/" + fp + "/export": "{}"} {
		if a := ask(t, hc, h, "POST", path, body, http.Header{"Content-Type": {"application/json"}}); a.status != http.StatusForbidden {
			t.Errorf("POST %s: %+v", path, a)
		}
	}
	for _, path := range []string{"/1.0/images/" + fp, "/1.0/images/aliases/hushhush", "/1.0/images/" + fp + "/export"} {
		if a := ask(t, hc, h, "GET", path, "", nil); a.status != http.StatusNotFound {
			t.Errorf("GET %s: %+v", path, a)
		}
	}
	h.sound(private.fingerprint())
}

// TestSlowClients has untrusted clients hold connections: they are let go, and others
// are served meanwhile.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.holds(unified(t, "slow", 10<<10), "--public", "--alias", "x")
	long := strings.Repeat("x", 100)
	slow := []string{
		"", // not even a handshake
		"GET /1.0 HTTP/1.1\r\nHost: x\r\nX: " + long,
		"POST /1.0/certificates HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
	}
	meanwhile := false
	for range 5 { // on a busy machine, one answer may take longer than the slow ones are kept
		ends := make(chan error, len(slow))
		for _, begin := range slow {
			go func() { ends <- dribble(h.Address, begin) }()
		}
		hc, _ := untrusted(t)
		if a := ask(t, hc, h, "GET", "/1.0/images/aliases/x", "", nil); a.status != http.StatusOK {
			t.Errorf("%+v", a)
		}
		meanwhile = len(ends) < len(slow) // the last one is refused at once
		for range slow {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
		if meanwhile {
			break
		}
	}
	if !meanwhile {
		t.Error("others were served when the slow ones had gone only")
	}
}
