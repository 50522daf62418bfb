// Package blobtest says what every store of blobs must do. It is for tests only.
package blobtest

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"

	"context"
)

// A Store keeps whole files under their own SHA-256.
type Store interface {
	Put(r io.Reader, want kiln.Fingerprint) (kiln.Fingerprint, error)
	Open(fp kiln.Fingerprint) (*os.File, error)
	Stat(fp kiln.Fingerprint) (int64, error)
	Delete(fp kiln.Fingerprint) error
	List(fn func(kiln.Fingerprint, int64) error) error
	Verify(ctx context.Context, fp kiln.Fingerprint) error
}

type broken struct{ r io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("the line is cut")
	}
	return n, err
}

// Run tests the stores that open makes, each empty.
func Run(t *testing.T, open func(*testing.T) Store) {
	const content = "some bytes"
	want := kiln.Fingerprint(sha256.Sum256([]byte(content)))
	list := func(t *testing.T, s Store) (all []kiln.Fingerprint) {
		t.Helper()
		err := s.List(func(fp kiln.Fingerprint, size int64) error {
			all = append(all, fp)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return all
	}
	t.Run("what goes in comes out", func(t *testing.T) {
		s := open(t)
		for range 2 { // a second time is no error
			if fp, err := s.Put(strings.NewReader(content), kiln.Fingerprint{}); fp != want || err != nil {
				t.Fatalf("Put: %s, %v", fp, err)
			}
		}
		f, err := s.Open(want)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if b, err := io.ReadAll(f); string(b) != content || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		if n, err := s.Stat(want); n != int64(len(content)) || err != nil {
			t.Errorf("Stat: %d, %v", n, err)
		}
		if err := s.Verify(t.Context(), want); err != nil {
			t.Error(err)
		}
		if all := list(t, s); len(all) != 1 || all[0] != want {
			t.Errorf("List: %v", all)
		}
	})
	t.Run("another hash leaves nothing", func(t *testing.T) {
		s := open(t)
		if _, err := s.Put(strings.NewReader(content), kiln.Fingerprint{1}); !errors.Is(err, kiln.Integrity) {
			t.Errorf("%v", err)
		}
		if all := list(t, s); len(all) != 0 {
			t.Errorf("List: %v", all)
		}
	})
	t.Run("a reader that fails leaves nothing", func(t *testing.T) {
		s := open(t)
		if _, err := s.Put(broken{strings.NewReader(content)}, kiln.Fingerprint{}); err == nil {
			t.Error("no error")
		}
		if all := list(t, s); len(all) != 0 {
			t.Errorf("List: %v", all)
		}
	})
	t.Run("what is absent is NotFound", func(t *testing.T) {
		s := open(t)
		_, e1 := s.Open(want)
		_, e2 := s.Stat(want)
		for _, err := range []error{e1, e2, s.Verify(t.Context(), want)} {
			if !errors.Is(err, kiln.NotFound) {
				t.Error(err)
			}
		}
		if err := s.Delete(want); err != nil {
			t.Error(err)
		}
	})
	t.Run("what is deleted is gone", func(t *testing.T) {
		s := open(t)
		s.Put(strings.NewReader(content), kiln.Fingerprint{})
		if err := s.Delete(want); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(want); !errors.Is(err, kiln.NotFound) {
			t.Error(err)
		}
	})
	t.Run("damage is found", func(t *testing.T) {
		s := open(t)
		s.Put(strings.NewReader(content), kiln.Fingerprint{})
		f, err := s.Open(want)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		os.Chmod(f.Name(), 0o600)
		if err := os.WriteFile(f.Name(), []byte("some bytez"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), want); !errors.Is(err, kiln.Integrity) {
			t.Error(err)
		}
	})
}
