package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeys keeps keys as files that minisign(1) works with, and no secret where it isn't
// wanted.
func TestKeys(t *testing.T) {
	s := newSession(t)
	dir := filepath.Join(s.dir, "conf", "keys")
	if out := s.ok("key list -f csv"); out != "" {
		t.Errorf("there are keys: %q", out)
	}
	public := strings.TrimSpace(s.ok("key generate -q")) // says nothing
	if public != "" {
		t.Errorf("quiet, but says %q", public)
	}
	s.fails("key generate", 4, `a key "default" already`, "kiln key delete default")
	s.fails("key generate ../x", 2, "can't name a key")
	s.fails("key generate x --encrypt", 2, "password is empty")
	s.stdin = "one\ntwo\n"
	s.fails("key generate x --encrypt", 2, "differ")
	fi, err := os.Stat(filepath.Join(dir, "default.key"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the secret key: %v, %v", fi, err)
	}
	s.says("key list -f csv", "default,", ",yes,RW")
	s.says("key show default", "name: default", "secret: \"yes\"", "public: RW")
	s.fails("key show defualt", 3, `no key "defualt"; did you mean "default"?`)

	// Out, to minisign(1), and back.
	message := s.write("message", "hello\n")
	pub, secret := filepath.Join(s.dir, "out.pub"), filepath.Join(s.dir, "out.key")
	s.ok("key export default " + pub)
	s.ok("key export default --secret " + secret)
	s.fails("key export default --secret "+secret, 4, "there is a file")
	for _, args := range [][]string{{"-S", "-s", secret, "-m", message}, {"-V", "-p", pub, "-m", message}} {
		if out, err := exec.Command("minisign", args...).CombinedOutput(); err != nil {
			t.Errorf("minisign(1): %v, %s", err, out)
		}
	}
	text, err := os.ReadFile(pub)
	if err != nil || s.ok("key export default") != string(text) || s.ok("key export default -") != string(text) {
		t.Errorf("what is exported differs: %v", err)
	}
	s.fails("key delete default", 2, "--force", "kiln key export default --secret")
	s.ok("key delete default --force")
	s.fails("key delete default -f", 3, `no key "default"`)
	s.says("key import "+secret, "imported: out\n")
	s.says("key import "+pub+" friend", "Public key", "imported: friend\n")
	s.fails("key import "+pub+" friend", 4, "already")
	line := strings.Fields(string(text))
	s.fails("key import "+line[len(line)-1], 2, "give the key a name")
	s.ok("key import " + line[len(line)-1] + " third")
	s.fails("key export third --secret", 3, "only the public part")
	s.fails("key import "+message, 2, "not a public key of minisign")
	s.fails("key import "+filepath.Join(s.dir, "nowhere")+" x", 2, "nor is there a file")
	s.fails("key import "+s.write("huge", strings.Repeat("x", 5000)), 2, "larger than 4096")

	// A password is asked for, and what is encrypted stays so.
	encrypted, err := os.ReadFile("../signing/testdata/encrypted.key")
	if err != nil {
		t.Fatal(err)
	}
	s.write("locked.key", string(encrypted))
	s.stdin = "wrong\n"
	s.fails("key import "+filepath.Join(s.dir, "locked.key"), 5, "password is wrong")
	s.stdin = "correct horse"
	s.ok("key import " + filepath.Join(s.dir, "locked.key"))
	p := newPTY(t, 80)
	code := make(chan int)
	go func() { code <- s.tty(p, "key import "+filepath.Join(s.dir, "locked.key")+" typed") }()
	p.wait(t, "Password for the key typed: ")
	if _, err := p.user.WriteString("correct horse\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 || strings.Contains(p.text(), "horse") {
		t.Errorf("exit %d, %q", got, p.text())
	}
	s.ok("key delete typed --force")
	s.says("key list -f csv -c ns", "locked,encrypted\n", "out,yes\n", "third,no\n", "friend,no\n")
	if got := s.ok("key export locked --secret"); got != string(encrypted) {
		t.Errorf("exported as %q", got)
	}
	s.ok("key delete friend third")

	// What can't be read costs that key.
	if err := os.WriteFile(filepath.Join(dir, "broken.pub"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, exit := s.run("key list -f csv -c n")
	if exit != 2 || out != "locked\nout\n" || !strings.Contains(errs, `"broken"`) {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
	s.ok("key delete broken")
}
