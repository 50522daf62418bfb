package place

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// resolver gives one with a file of remotes of its own.
func resolver(t *testing.T, config string) *Resolver {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("KILN_CONF", dir)
	t.Setenv("KILN_REMOTE", "")
	if config != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Resolver{}
}

const twoServers = `default-remote: srv
remotes:
  srv: {addr: "unix:///srv.socket"}
  other: {addr: "unix:///other.socket"}
  pub: {addr: "https://pub.example", protocol: simplestreams, public: true}
  "../../evil": {addr: "https://evil.example"}
  gone:
aliases: {x: y}
`

func TestAt(t *testing.T) {
	for word, want := range map[string]string{
		"": "srv:", "c1": "srv:c1", ":c1": "srv:c1", "srv:c1": "srv:c1", "other:": "other:", "other:c1/s0": "other:c1/s0",
		"local:a:b": "local:a:b", "pub:x": "unsupported", "images:": "unsupported", "nothing:x": "missing", "gone:x": "missing",
		"../../evil:x": "srv:../../evil:x", "c1/12:30": "srv:c1/12:30",
	} {
		r := resolver(t, twoServers)
		at, err := r.At(word)
		got := at.Word()
		switch {
		case errors.Is(err, kiln.Unsupported):
			got = "unsupported"
		case errors.Is(err, kiln.NotFound):
			got = "missing"
		case err != nil:
			t.Errorf("%q: %v", word, err)
		}
		if got != want {
			t.Errorf("%q is %q, want %q", word, got, want)
		}
	}
}

// No remote named is the default remote, in every position.
func TestPair(t *testing.T) {
	for words, want := range map[string]string{
		"c1":             "srv:c1 srv:",
		"c1 c2":          "srv:c1 srv:c2",
		"other:c1":       "other:c1 other:",
		"other:c1 c2":    "other:c1 srv:c2",
		"c1 other:":      "srv:c1 other:",
		"other:c1 srv:x": "other:c1 srv:x",
		"c1 :x":          "srv:c1 srv:x",
	} {
		from, to, err := resolver(t, twoServers).Pair(strings.Fields(words))
		if got := from.Word() + " " + to.Word(); got != want || err != nil {
			t.Errorf("%q is %q, want %q %v", words, got, want, err)
		}
	}
	if _, _, err := resolver(t, twoServers).Pair([]string{"c1", "srw:x"}); !errors.Is(err, kiln.NotFound) ||
		!strings.Contains(err.Error(), `did you mean "srv"?`) {
		t.Error(err)
	}
}

func TestDefaultRemote(t *testing.T) {
	for _, c := range []struct {
		config, env string
		force       bool
		want        string
	}{
		{"", "", false, "local"}, {twoServers, "", false, "srv"}, {twoServers, "other", false, "other"},
		{twoServers, "other", true, "local"},
	} {
		r := resolver(t, c.config)
		r.ForceLocal = c.force
		t.Setenv("KILN_REMOTE", c.env)
		at, err := r.At("x")
		if at.Remote != c.want || err != nil {
			t.Errorf("%v: %q %v", c, at.Remote, err)
		}
		// What the environment says for one command isn't kept.
		config, err := r.Config()
		if err != nil {
			t.Fatal(err)
		}
		if err := config.Save(); err != nil {
			t.Fatal(err)
		}
		again, err := Read(os.Getenv("KILN_CONF"))
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]string{true: "srv", false: "local"}[c.config != ""]; again.Default != want {
			t.Errorf("%v: saved %q", c, again.Default)
		}
	}
}

func TestServer(t *testing.T) {
	for words, want := range map[string]string{
		"": "srv: ", "other:": "other: ", "other: a b": "other: a b", "a b": "srv: a b", "a=b:c": "srv: a=b:c",
	} {
		at, rest, err := resolver(t, twoServers).Server(strings.Fields(words))
		if got := at.Word() + " " + strings.Join(rest, " "); got != want || err != nil {
			t.Errorf("%q is %q, want %q %v", words, got, want, err)
		}
	}
}

func TestSnapshotOf(t *testing.T) {
	for words, want := range map[string]string{
		"c1/s0": "srv c1 s0", "c1 s0": "srv c1 s0", "other:c1/s0": "other c1 s0", "other:c1 s0": "other c1 s0",
		"c1 c1/s0": "srv c1 s0", "c1": "", "c1/": "", "c1/s0 s1": "", "c1/12:30": "srv c1 12:30", ":c1/12:30": "srv c1 12:30",
		"c1 12:30": "srv c1 12:30",
	} {
		at, instance, snap, err := resolver(t, twoServers).SnapshotOf(strings.Fields(words))
		got := at.Remote + " " + instance + " " + snap
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q is %q, want %q %v", words, got, want, err)
		}
	}
}

func TestSameServer(t *testing.T) {
	at, err := resolver(t, twoServers).At("other:a")
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{"b": "other:b", "other:b": "other:b", "srv:b": "", "b@1": "other:b@1"} {
		b, err := at.SameServer(word)
		if (err != nil) != (want == "") || err == nil && b.Word() != want {
			t.Errorf("%q is %q, want %q %v", word, b.Word(), want, err)
		}
	}
}

// TestUnnamedImage: a script whose variable is empty doesn't mean some image.
func TestUnnamedImage(t *testing.T) {
	r := resolver(t, twoServers)
	for _, word := range []string{"", ":", "other:"} {
		if at, err := r.Image(word); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q is %q, %v", word, at.Word(), err)
		}
		if _, img, err := r.FindImage(t.Context(), word); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q is %v, %v", word, img.Fingerprint, err)
		}
	}
	at, err := r.At("")
	if err != nil {
		t.Fatal(err)
	}
	if src, err := r.InstanceSource(t.Context(), "", at, false); err != nil || src.Alias != defaultImage {
		t.Errorf("an instance is made from %q, %v", src.Alias, err)
	}
}

func TestOnlyImages(t *testing.T) {
	for word, want := range map[string]bool{"pub:": true, "images:x": true, "x": false, "other:": false, "nothing:": false} {
		got, _ := resolver(t, twoServers).OnlyImages(word)
		if got != want {
			t.Errorf("%q: %v", word, got)
		}
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "https://192.0.2.7:8443", "[::1]:5": "https://[::1]:5", "https://x/": "https://x:8443",
		"unix://": "unix://", "unix:///a": "unix:///a", "unix:/a": "unix:///a", "/a": "unix:///a", "ftp://x": "",
		"https://u:p@x": "", "": "", "http://x": "http://x:8443",
	} {
		got, err := Address(in, "")
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, want %q %v", in, got, want, err)
		}
	}
	if got, _ := Address("images.example/path/", kiln.ProtocolStreams); got != "https://images.example/path" {
		t.Error(got)
	}
}

func TestRename(t *testing.T) {
	r := resolver(t, twoServers)
	c, err := r.Config()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Rename("srv", "other"); !errors.Is(err, kiln.Conflict) {
		t.Error(err)
	}
	for _, bad := range []string{"", "a:b", "a/b", ".x", "-x", "a b", "a\x1bb", "a\tb"} {
		if err := c.Rename("srv", bad); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(c.CertPath("srv")), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.CertPath("srv"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Rename("srv", "new"), c.Save()); err != nil {
		t.Fatal(err)
	}
	again, err := Read(c.Path(""))
	if err != nil || again.Default != "new" || again.Remotes["new"] == nil || again.Rest["aliases"] == nil {
		t.Error(again, err)
	}
	if where, err := again.Reach("new"); err != nil || where.Certificate != "x" {
		t.Error(where, err)
	}
	pinned := func(want, file string) { // what c and what somebody who reads it has
		t.Helper()
		where, err := c.Reach("new")
		b, _ := os.ReadFile(c.CertPath("new"))
		if err != nil || where.Certificate != want || string(b) != file {
			t.Errorf("%q and in the file %q, want %q and %q: %v", where.Certificate, b, want, file, err)
		}
	}
	c.Pin("new", "y")
	pinned("y", "x")
	c.Unpin("new")
	pinned("x", "x")
	for _, pin := range []string{"y", ""} {
		c.Pin("new", pin)
		if err := c.Save(); err != nil {
			t.Error(err)
		}
		pinned(pin, pin)
	}
	if err := errors.Join(c.Forget("new"), c.Forget("new")); err != nil {
		t.Error(err)
	}
}

func TestMissing(t *testing.T) {
	for name, want := range map[string]string{
		"c2": `no instance "c2"; did you mean "c1"?`, "zzzzzz": `no instance "zzzzzz"; see: kiln list`, "c1": `no instance "c1"`,
	} {
		if err := Missing("instance", name, []string{"c1"}); err.Error() != want || !errors.Is(err, kiln.NotFound) {
			t.Error(err)
		}
	}
}

// FuzzRead feeds what lxc, incus or anybody else may have written.
func FuzzRead(f *testing.F) {
	f.Add([]byte(twoServers))
	f.Add([]byte("remotes: {a: {addr: 1, mirrors: [x]}}"))
	f.Add([]byte("{{{"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "config.yml"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Read(dir)
		if err != nil {
			return
		}
		for name := range c.Remotes {
			if filepath.Dir(c.CertPath(name)) != filepath.Join(dir, "servercerts") {
				t.Errorf("the certificate of %q is outside", name)
			}
		}
	})
}

// TestNoFingerprint shows no zeros for an image whose fingerprint nobody knows yet.
func TestNoFingerprint(t *testing.T) {
	if w := Wire(kiln.Image{}); w.Fingerprint != "" {
		t.Errorf("%q", w.Fingerprint)
	}
	fp := kiln.Fingerprint{1}
	if w := Wire(kiln.Image{Fingerprint: fp}); w.Fingerprint != fp.String() {
		t.Errorf("%q", w.Fingerprint)
	}
}
