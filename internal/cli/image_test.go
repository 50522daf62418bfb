package cli

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/remote"
)

func TestImageVerbs(t *testing.T) {
	s := newSession(t)
	one := s.image("1", "--alias one --alias uno os=debian user.team=web")
	two := s.image("2", "--alias two --public")

	// Lists.
	s.says("image list -f csv -c lfp", "one (1 more),"+one[:12]+",no\n", "two,"+two[:12]+",yes\n")
	s.says("image list -f csv -c l,user.team:TEAM,properties:os one", "one (1 more),web,debian\n")
	s.says("image list -c lAcUCxk one", "| AUTO UPDATE | CACHED | LAST USED |", "| no          | no     | never     |")
	s.says("image list -c L -f csv,header one", "ALIASES\n\"one\nuno\"\n")
	s.says("image list b: -f csv", "")
	s.says("image list local:two -f csv -c l", "two\n")
	s.says("image alias list local:uno -f csv -c a", "uno\n")
	if out := s.ok("image list local:two public=false -f csv"); out != "" {
		t.Error(out)
	}
	s.fails("image list b:junk:", 2, `"b:junk:" names no server`)
	s.fails("image import "+filepath.Join(s.dir, "1.tar")+" b:junk:", 2, `"b: --alias junk"`)
	s.fails("image import "+filepath.Join(s.dir, "1.tar")+" b:junk", 2, `"b: --alias junk"`)
	s.says("image list one -f yaml", "fingerprint: "+one)
	s.fails("image list -c lz", 2, "shorthand char 'z'")
	s.fails("image list -f xml", 2, "table, csv, json, yaml or compact")
	s.says("image ls two -f compact,noheader -c l", "two")

	// One image.
	s.says("image info one", "Fingerprint: "+one, "Size: ", " kB\n", "    user.team: web", "    - uno")
	s.says("image info one -f json", `"fingerprint":"`+one+`"`)
	s.says("image info "+one[:14]+" -f yaml", "user.team: web")
	s.fails("image info nothing", 3, `no image "nothing"`)
	s.fails("image info onw", 3, `did you mean "one"?`)
	s.fails("image info", 2, "missing argument: <image>")
	s.fails("image info one two", 2, `unexpected argument "two"`)
	s.says("image show one", "public: false")
	s.says("image verify -f csv", one+",good\n", two+",good\n")
	s.says("image verify one", one+": good")
	s.says("image df", "kB", "STORED")
	s.fails("image df -f csv one", 2, `"one" names no server`, "kiln remote list")

	// Properties.
	s.ok("image set-property one os 'Debian 12'")
	s.says("image get-property one os", "Debian 12\n")
	s.fails("image get-property one oss", 3, `has no property "oss"; did you mean "os"?`)
	s.ok("image unset-property one os")
	s.fails("image unset-property one os", 3, "has no property")

	// Aliases.
	s.ok("image alias create eins " + one + " --description first")
	s.fails("image alias create a/.. nothing", 3)
	s.says("image alias list -f csv -c ad ein", "eins,first\n")
	s.says("image alias show eins", "target: "+one)
	s.fails("image alias show nothing", 3, `no alias "nothing"`)
	s.ok("image alias rename eins ein")
	s.fails("image alias rename nothing x", 3, `no alias "nothing"`)
	s.ok("image alias delete ein uno")
	s.fails("image alias delete onw", 3, `no alias "onw"; did you mean "one"?`)
	s.fails("image alias list -c q", 2)

	// Files.
	out := filepath.Join(s.dir, "out")
	s.ok("image export one " + out)
	s.says("image hash "+out+".tar", one)
	dir := filepath.Join(s.dir, "exported")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.ok("image export one " + dir)
	s.says("image hash "+filepath.Join(dir, one+".tar"), one)
	s.fails("image export nothing "+filepath.Join(s.dir, "nowhere")+"/", 3, "no directory")
	s.fails("image patch one two "+filepath.Join(s.dir, "nowhere", "p"), 3, "no directory")
	s.fails("image import "+filepath.Join(s.dir, "nothing"), 3, "nothing")
	s.says("image import "+out+".tar --alias two3", "there already", one, "alias two3")
	s.fails("image import "+out+".tar --alias 'a b'", 2, "white space")
	s.fails("image import ftp://x/y", 3)

	s.fails("image delete "+two[:4], 2, "at least 8 digits")
	s.fails("image delete "+strings.ToUpper(two[:4]), 2, "at least 8 digits")
	s.ok("image delete two")
	s.fails("image delete one nothing", 3, `no image "nothing"`, "nothing was deleted")
	s.ok("image delete one")
	s.fails("image info one", 3)
}

func TestImageVersions(t *testing.T) {
	s := newSession(t)
	one := s.image("1", "--alias web")
	two := s.image("2", "--alias web")
	s.says("image history web -f csv", "web@0,"+two[:12], "web@1,"+one[:12])
	s.fails("image history nothing", 3, `no alias "nothing"`)
	s.says("image info web@1", one)
	s.ok("image rollback web")
	s.says("image info web", one)
	s.fails("image rollback web 9", 3, "no version 9")
	s.fails("image rollback web x", 2, "how many versions")
	s.fails("image rollback nothing", 3)
	s.says("image diff web "+two+" -f json", `"files"`)
	s.ok("image diff web " + two)
	s.fails("image delete web@9", 3, `no image "web@9"`)
	s.fails("image delete web@0 "+one[:4], 2, one[:4]+`" is short for the image`)
	s.ok("image diff web " + two + " --packages -f csv")
	s.fails("image diff web b:"+two, 2, "different servers")
	s.fails("image patch web "+two[:12]+" "+filepath.Join(s.dir, "p"), 3, "table of contents")
	s.says("image prune --dry-run -f csv", "")
	s.says("image prune --all --dry-run -f csv", "")
	s.says("image prune", "")
	s.image("3", "--alias web")
	s.ok("image delete web")
	s.says("image info "+one, "isn't here any more; kiln image prune")
	s.says("image prune --dry-run -f csv", one[:12])
	if _, err, _ := s.run("image prune"); !strings.HasPrefix(err, "1 image of ") {
		t.Errorf("%q", err)
	}
	older := s.image("4", "--alias web")
	s.image("5", "--alias web")
	s.ok("image delete web@1") // no fingerprint, though it is short
	s.fails("image info "+older, 3)
}

// TestOutdated finds the instances whose image has another version now, whatever
// happened to the row of theirs, and rebuilds them without being told of which image.
func TestOutdated(t *testing.T) {
	s := newSession(t)
	one := s.image("1", "--alias web")
	s.ok("init web c1")
	if out := s.ok("list outdated=true -f csv -c n"); out != "" {
		t.Errorf("outdated: %q", out)
	}
	two := s.image("2", "--alias web")
	s.says("list outdated=true -f csv -c no", "c1,"+two[:12])
	s.ok("init web c2")
	s.says("list outdated=false -f csv -c n", "c2\n")
	if _, err, _ := s.run("image rollback web"); !strings.Contains(err, "1 instance uses another version: kiln list outdated") {
		t.Errorf("after a rollback: %q", err)
	}
	s.says("list outdated=yes -f csv -c no", "c2,"+one[:12])
	s.ok("image delete " + two)
	s.says("list outdated=true -f csv -c no", "c2,"+one[:12])
	s.ok("rebuild c2")
	s.says("list c2 -f csv -c F", one)
	three := s.image("3", "--alias web")
	s.ok("image delete " + one)
	s.says("list outdated=true -f csv -c no", "c1,"+three[:12], "c2,"+three[:12])
	s.ok("rebuild c1")
	s.ok("image delete web")
	s.fails("rebuild c2", 3, `rebuild instance "c2"`, "kiln rebuild c2 IMAGE")
}

func TestImageCopy(t *testing.T) {
	s := newSession(t)
	fp := s.image("1", "--alias one --alias uno")
	s.fails("image copy one", 2, "missing argument: <remote>")
	s.fails("image copy one b", 2, `write it as "b:"`)
	s.fails("image copy one b:stable", 2, `"b: --alias stable"`)
	s.fails("image copy one b:stable:", 2, `"b: --alias stable"`)
	s.fails("image copy one local:", 2, "different")
	s.fails("image copy one b: --mode sideways", 2, "auto, pull, push or relay")
	s.fails("image copy one b: --vm", 1, "virtual")
	s.fails("image copy one b: --auto-update --mode push", 2, "pull mode")
	s.fails("image copy one b: --auto-update", 2, "private")
	s.fails("image copy nothing b:", 3, `no image "nothing"`)
	s.fails("image copy one c:", 3, `no remote "c"`)
	s.fails("image copy one images:", 1, "image server")
	s.fails("image copy one b: --mode pull", 1, "isn't listening")
	s.says("image copy one b: --mode relay --dry-run", "the whole image")
	s.ok("image copy one b: --mode relay --target-project default --dry-run")
	s.says("image copy one b: --mode relay --copy-aliases --alias more", "Image copied successfully!")
	s.says("image list b: -f csv -c L", "\"more\none\nuno\"")
	s.says("image info b:"+fp[:12], fp)

	// Aliases that others have stay where they are, unless it is said.
	two := s.image("2", "--alias one --alias new")
	s.fails("image copy one b: --mode relay --copy-aliases", 4, `the alias "one" is that of another image on "b"`, "--reuse")
	s.says("image info b:one", fp)
	s.fails("image info b:new", 3)
	s.ok("image copy one b: --mode relay --copy-aliases --reuse")
	s.says("image info b:one", two)
	events := s.there.Events.Listen("lifecycle")
	defer events.Close()
	s.ok("image copy one b: --mode relay --copy-aliases --reuse")
	s.ok("image alias create b:last " + fp)
	for name := ""; name != "image-alias-created /1.0/images/aliases/last"; {
		e := (<-events.Events()).Metadata.(daemon.Lifecycle)
		if name = e.Action + " " + e.Source; e.Action == "image-alias-deleted" {
			t.Error("there was a moment without the alias:", name)
		}
	}
}

func TestPublishTree(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one --public")
	dir := filepath.Join(s.dir, "www")
	s.ok("image publish-tree " + dir)
	if b, err := os.ReadFile(filepath.Join(dir, "streams/v1/index.json")); err != nil || len(b) == 0 {
		t.Error(err)
	}
	page := filepath.Join(dir, "index.html")
	if b, err := os.ReadFile(page); err != nil || !strings.Contains(string(b), "kiln launch images:one c1") ||
		!strings.Contains(string(b), `href="images/`) || !strings.Contains(string(b), "--protocol simplestreams") {
		t.Errorf("%s, %v", b, err)
	}
	s.image("2", "--alias two --public")
	s.image("3", "--alias three")
	s.ok("image publish-tree local: " + dir)
	if b, err := os.ReadFile(page); err != nil || !strings.Contains(string(b), "images:two c1") ||
		strings.Contains(string(b), "three") {
		t.Errorf("%s, %v", b, err)
	}
	// A page of somebody else's stays.
	if err := os.WriteFile(page, []byte("<title>mine</title>"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ok("image publish-tree local: " + dir)
	if b, err := os.ReadFile(page); err != nil || string(b) != "<title>mine</title>" {
		t.Errorf("%s, %v", b, err)
	}
	s.fails("image publish-tree", 2, "missing argument: <directory>")
	s.fails("image publish-tree b: "+dir+" x", 2)
}

// What a server calls a file, and what it sends, is not taken on trust.
func TestExportHostile(t *testing.T) {
	dir := t.TempDir()
	fp, err := kiln.ParseFingerprint(strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []kiln.File{{Name: ".bashrc", Ext: ".bashrc/../x"}, {Name: "../x", Ext: "/x"}, {Name: "x", Ext: ".TAR"}} {
		if got, want := exportName(dir, fp, f), filepath.Join(dir, fp.String()); got != want {
			t.Errorf("%v goes to %s", f, got)
		}
	}
	if got := exportName(dir, fp, kiln.File{Role: kiln.Metadata, Ext: ".tar.xz"}); got != filepath.Join(dir,
		"meta-"+fp.String()+".tar.xz") {
		t.Error(got)
	}
	a, _ := writer()
	path := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(path, []byte("other bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := remote.Files{Paths: []string{path}}
	img, err := src.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := src.Open(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	out := t.TempDir()
	other := &checked{Stream: stream, sum: sha256.New()}
	if err := a.export(kiln.Image{Fingerprint: fp}, other, out); !errors.Is(err, kiln.Integrity) {
		t.Error(err)
	}
	if left, err := os.ReadDir(out); len(left) > 0 || err != nil {
		t.Error("the wrong bytes stay", left, err)
	}
}

// Misspelt, empty or impossible YAML changes nothing.
func TestImageEdit(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one os=debian --public")
	before := s.ok("image show one")
	for yaml, want := range map[string]string{
		"": "there is no YAML", "# a remark\n": "there is no YAML", "{}": "there is no YAML",
		"publik: true":                     `unknown key "publik"; did you mean "public"?`,
		"properties: [a]":                  "is a list, and has to be a map",
		"public: maybe":                    "has to be true or false",
		"properties:":                      `"properties" has no value`,
		"{{{":                              "this is not the YAML",
		"architecture: aarch64":            `"architecture" can't be changed`,
		"public: false\npublic: true\n":    "public",
		"properties: {os: x}\nprofils: []": `did you mean "profiles"?`,
		"auto_updte: true":                 `did you mean "auto_update"?; the keys are auto_update, properties, public, expires_at, profiles;`,
	} {
		s.stdin = yaml
		s.fails("image edit one", 2, want, "nothing was changed")
		if after := s.ok("image show one"); after != before {
			t.Errorf("%q changed %s", yaml, after)
		}
	}
	s.stdin = "architecture: x86_64\nautoupdate: true\nproperties: {os: alpine}\n"
	s.ok("image edit one")
	s.says("image show one", "os: alpine", "public: true", "auto_update: true")
	s.stdin = s.ok("image info one -f yaml") // all that there is, unchanged
	s.ok("image edit one")
	s.stdin = "properties: {}"
	s.ok("image edit one")
	if out := s.ok("image show one"); strings.Contains(out, "alpine") {
		t.Error(out)
	}
	s.fails("image edit nothing", 3)
}

// TestDamagedImage has an image whose file is damaged: once that was noticed, whoever wants
// the file is told so, once.
func TestDamagedImage(t *testing.T) {
	s := newSession(t)
	fp := s.image("1", "--alias one")
	files, err := filepath.Glob(filepath.Join(s.dir, "a", "blobs", "*", "*", fp))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 100); err != nil {
		t.Fatal(err)
	}
	s.fails("image verify one", 7, "is damaged")
	s.fails("image export one -", 7, "is damaged")
	s.fails("image export one "+s.dir, 7, "is damaged")
	for _, flags := range []string{"", " -q", " --mode relay"} {
		_, said, code := s.run("image copy one b:" + flags)
		if code != 7 || strings.Count(said, "is damaged") != 1 || strings.Count(said, "isn't listening") > 1 {
			t.Errorf("copy%s: exit %d, %s", flags, code, said)
		}
	}
	s.ok("image import " + filepath.Join(s.dir, "1.tar"))
	s.ok("image copy one b:")
}
