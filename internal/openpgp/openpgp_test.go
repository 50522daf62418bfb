package openpgp

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// gpg runs gpg(1) with keys of its own.
func gpg(t *testing.T, home string, args ...string) []byte {
	t.Helper()
	c := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--yes", "--no-tty", "--pinentry-mode", "loopback",
		"--passphrase", "", "--faked-system-time", "20260101T000000"}, args...)...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out
}

// home makes a directory of gpg with a key of an address.
func home(t *testing.T, address, kind, expire string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gpg") // a socket in it has a path that is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run() // its agent
		os.RemoveAll(dir)
	})
	gpg(t, dir, "--quick-generate-key", address, kind, "sign", expire)
	return dir
}

// read reads a file to its end as Prove has it, and gives the verdict.
func read(t *testing.T, r Ring, signature, file []byte) error {
	t.Helper()
	prove, err := r.Prove(signature)
	if err != nil {
		return err
	}
	in, verdict := prove(bytes.NewReader(file))
	if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, file) {
		t.Fatalf("%d bytes of %d: %v", len(got), len(file), err)
	}
	return verdict()
}

// TestGPG verifies what gpg(1) has signed, with the kinds of keys there are, and refuses all else.
func TestGPG(t *testing.T) {
	file := make([]byte, 100_000)
	rand.Read(file)
	copy(file, "a\nb\r\nc")
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	other := home(t, "other@example", "ed25519", "never")
	theirs, err := Parse(gpg(t, other, "--export"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"rsa3072", "ed25519"} {
		h := home(t, "signer@example", kind, "never")
		for _, ring := range [][]byte{gpg(t, h, "--export"), gpg(t, h, "--export", "--armor")} {
			r, err := Parse(ring)
			if err != nil || !Is(ring) {
				t.Fatal(kind, err)
			}
			for _, how := range [][]string{{}, {"--armor"}} {
				sig := gpg(t, h, append(how, "--output", "-", "--detach-sign", path)...)
				if err := read(t, r, sig, file); err != nil {
					t.Errorf("%s %s: %v", kind, how, err)
				}
				for _, at := range []int{0, 1, len(file) / 2, len(file) - 1} {
					bad := bytes.Clone(file)
					bad[at] ^= 1
					if err := read(t, r, sig, bad); kiln.KindOf(err) != kiln.Integrity {
						t.Errorf("%s: byte %d is another one: %v", kind, at, err)
					}
				}
				for name, bad := range map[string][]byte{"shorter": file[:len(file)-1], "longer": append(bytes.Clone(file), 0), "empty": {}} {
					if err := read(t, r, sig, bad); kiln.KindOf(err) != kiln.Integrity {
						t.Errorf("%s: a file that is %s: %v", kind, name, err)
					}
				}
				err := read(t, theirs, sig, file)
				if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), theirs.String()) {
					t.Errorf("%s: another key: %v", kind, err)
				}
				for name, bad := range map[string][]byte{"cut off": sig[:len(sig)/2], "empty": nil, "the file": file, "a key": ring,
					"huge": bytes.Repeat(sig, 1000), "many": bytes.Repeat(gpg(t, h, "--output", "-", "--detach-sign", path), 9)} {
					if err := read(t, r, bad, file); kiln.KindOf(err) != kiln.Integrity {
						t.Errorf("%s: a signature that is %s: %v", kind, name, err)
					}
				}
			}
			for name, how := range map[string][]string{"of a text": {"--textmode"}, "with SHA-1": {"--digest-algo", "SHA1"}} {
				sig := gpg(t, h, append(how, "--output", "-", "--detach-sign", path)...)
				if err := read(t, r, sig, file); kiln.KindOf(err) != kiln.Integrity {
					t.Errorf("%s: a signature %s: %v", kind, name, err)
				}
			}
			prove, err := r.Prove(gpg(t, h, "--output", "-", "--detach-sign", path))
			if err != nil {
				t.Fatal(err)
			}
			if _, verdict := prove(bytes.NewReader(file)); kiln.KindOf(verdict()) != kiln.Integrity {
				t.Errorf("%s: a file that nobody has read is good", kind)
			}
		}
		for name, bad := range map[string][]byte{"secret": gpg(t, h, "--export-secret-keys"), "empty": nil,
			"cut off": gpg(t, h, "--export")[:100], "huge": make([]byte, MaxRing+1), "a signature": gpg(t, h, "--armor",
				"--output", "-", "--detach-sign", path)} {
			if _, err := Parse(bad); kiln.KindOf(err) != kiln.Invalid {
				t.Errorf("%s: a key that is %s: %v", kind, name, err)
			}
		}
	}
	h := home(t, "gone@example", "ed25519", "20260102T000000")
	r, err := Parse(gpg(t, h, "--export"))
	if err != nil {
		t.Fatal(err)
	}
	sig := gpg(t, h, "--output", "-", "--default-sig-expire", "1d", "--detach-sign", path)
	if err := read(t, r, sig, file); kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("a signature that has expired: %v", err)
	}
}

// FuzzProve reads keys and signatures of others.
func FuzzProve(f *testing.F) {
	f.Add([]byte(armored+"PUBLIC KEY BLOCK-----\n\n"), []byte{0xc2, 1, 4})
	f.Add([]byte{0x98, 0x33, 4}, []byte(armored+"SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, keys, signature []byte) {
		r, err := Parse(keys)
		if err != nil && kiln.KindOf(err) != kiln.Invalid {
			t.Fatal(err)
		}
		prove, err := r.Prove(signature)
		if err != nil {
			if kiln.KindOf(err) != kiln.Integrity {
				t.Fatal(err)
			}
			return
		}
		in, verdict := prove(strings.NewReader("text"))
		_, _ = io.Copy(io.Discard, in)
		if verdict() == nil {
			t.Fatal("anything is signed")
		}
	})
}
