package place

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/signing"
)

// Keys are the keys of a client: in the directory keys/ of its configuration, as files of
// minisign, NAME.pub and, for those that it can sign with, NAME.key.
type Keys struct{ dir string }

// Keys gives the client's keys.
func (c *Config) Keys() Keys { return Keys{c.Path("keys")} }

// A NamedKey is a public key and what the client calls it.
type NamedKey struct {
	Name      string
	Key       signing.Key
	Secret    bool // the client can sign with it …
	Encrypted bool // … if the user knows the password
}

var keyName = regexp.MustCompile(`^[a-zA-Z0-9][-._a-zA-Z0-9]{0,62}$`)

// CheckKeyName says whether name may name a key, and its files. The error is Invalid.
func CheckKeyName(name string) error {
	if !keyName.MatchString(name) {
		return kiln.Errorf(kiln.Invalid, "%q can't name a key: a name has up to 63 of a-z A-Z 0-9 - . and _, and begins "+
			"with a letter or a digit", name)
	}
	return nil
}

// List gives all keys, by name. A file that can't be read costs that key: the error names
// it, and the others are there.
func (k Keys) List() ([]NamedKey, error) {
	entries, err := os.ReadDir(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	errs := []error{err}
	var list []NamedKey
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".pub")
		if !ok || CheckKeyName(name) != nil {
			continue
		}
		n, err := k.Find(name)
		if err == nil {
			list = append(list, n)
		}
		errs = append(errs, err)
	}
	return list, errors.Join(errs...)
}

// Find gives one key. Errors: NotFound, Invalid.
func (k Keys) Find(name string) (NamedKey, error) {
	n := NamedKey{Name: name}
	if err := CheckKeyName(name); err != nil {
		return n, err
	}
	b, err := readKey(k.path(name, ".pub"))
	if errors.Is(err, fs.ErrNotExist) {
		return n, Missing("key", name, k.Names())
	}
	if err == nil {
		n.Key, err = signing.ParseKey(string(b))
	}
	if err != nil {
		return n, kiln.Errorf(kiln.KindOf(err), "read the key %q in %s: %w", name, k.dir, err)
	}
	secret, err := k.SecretFile(name)
	if errors.Is(err, kiln.NotFound) {
		return n, nil
	}
	n.Secret, n.Encrypted = err == nil, signing.Encrypted(secret)
	return n, err
}

// Names gives the names of all keys.
func (k Keys) Names() (names []string) {
	entries, _ := os.ReadDir(k.dir) // only to suggest one
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".pub"); ok {
			names = append(names, name)
		}
	}
	return names
}

func (k Keys) path(name, ext string) string { return filepath.Join(k.dir, name+ext) }

// SecretFile gives the file with the secret key, as it is. The error is NotFound for a key
// that others sign with.
func (k Keys) SecretFile(name string) ([]byte, error) {
	b, err := readKey(k.path(name, ".key"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, kiln.Errorf(kiln.NotFound, "of the key %q only the public part is here: it verifies, and doesn't sign",
			name)
	case err != nil:
		return nil, err
	case !signing.IsSecret(b):
		return nil, kiln.Errorf(kiln.Invalid, "%s is not a secret key of minisign", k.path(name, ".key"))
	}
	return b, nil
}

// Free says whether a name can be given to a key. The error is Conflict for a name that is
// taken, Invalid for one that can't be.
func (k Keys) Free(name string) error {
	if err := CheckKeyName(name); err != nil {
		return err
	}
	for _, ext := range []string{".pub", ".key"} {
		if _, err := os.Lstat(k.path(name, ext)); err == nil {
			return kiln.Errorf(kiln.Conflict, "there is a key %q already (%s); choose another name, or delete it first: "+
				"kiln key delete %s", name, k.path(name, ext), name)
		}
	}
	return nil
}

// Add keeps a key under a name, with its secret part unless that is nil. Errors are those
// of Free.
func (k Keys) Add(name string, key signing.Key, secret []byte) error {
	if err := k.Free(name); err != nil {
		return err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	// The public part is what lists see. A secret one without it is never there.
	if err := disk.WriteBytes(k.path(name, ".pub"), 0o600, key.File()); err != nil || secret == nil {
		return err
	}
	return disk.WriteBytes(k.path(name, ".key"), 0o600, secret)
}

// Remove deletes a key. The error is NotFound.
func (k Keys) Remove(name string) error {
	if err := CheckKeyName(name); err != nil {
		return err
	}
	found := false
	for _, ext := range []string{".key", ".pub"} {
		err := os.Remove(k.path(name, ext))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		found = found || err == nil
	}
	if !found {
		return Missing("key", name, k.Names())
	}
	return nil
}

// Signer gives the name of the key to sign with if the user named none: the one called
// "default", or the only one. Errors: NotFound, Ambiguous.
func (k Keys) Signer() (string, error) {
	list, err := k.List()
	if err != nil {
		return "", err
	}
	list = slices.DeleteFunc(list, func(n NamedKey) bool { return !n.Secret })
	var names []string
	for _, n := range list {
		if n.Name == DefaultKey {
			return n.Name, nil
		}
		names = append(names, n.Name)
	}
	switch len(names) {
	case 0:
		return "", kiln.Errorf(kiln.NotFound, "there is no key to sign with; make one: kiln key generate")
	case 1:
		return names[0], nil
	}
	return "", kiln.Errorf(kiln.Ambiguous, "there are several keys to sign with: %s; name one", strings.Join(names, ", "))
}

// DefaultKey is the name of a key that nobody named.
const DefaultKey = "default"

// readKey reads a file that a key may be in.
func readKey(path string) ([]byte, error) {
	f, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, signing.MaxKeyFile+1)
	n, err := io.ReadFull(f, b)
	if err == nil {
		return nil, fmt.Errorf("%s is no key: it is larger than %d bytes", path, signing.MaxKeyFile)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return b[:n], err
}

// ReadKeyFile reads a file of minisign, wherever it is. Errors: NotFound, Invalid.
func ReadKeyFile(path string) ([]byte, error) {
	b, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.NotFound, "no file %q", path)
	}
	if err != nil {
		err = kiln.Errorf(kiln.Invalid, "%w", err)
	}
	return b, err
}

// PublicKey reads what a user says of a public key: the key itself, or a file with it.
// Errors: NotFound, Invalid.
func PublicKey(word string) (signing.Key, error) {
	key, err := signing.ParseKey(word)
	if err == nil {
		return key, nil
	}
	b, ferr := ReadKeyFile(word)
	switch {
	case errors.Is(ferr, kiln.NotFound):
		return key, kiln.Errorf(kiln.Invalid, "%w; nor is there a file of that name", err)
	case ferr != nil:
		return key, ferr
	case signing.IsSecret(b):
		return key, kiln.Errorf(kiln.Invalid, "%s has a secret key; give the public one, which is for everybody", word)
	}
	if key, err = signing.ParseKey(string(b)); err != nil {
		return key, kiln.Errorf(kiln.Invalid, "%s: %w", word, err)
	}
	return key, nil
}
