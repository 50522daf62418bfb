package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/server"
)

// connect gives a client of a real daemon.
func connect(t *testing.T) *client.Client {
	t.Helper()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	d, err := daemon.Open(t.Context(), daemon.Config{Dir: dir, Log: log, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.New(d, log, cancel).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
	})
	return client.Unix(socket)
}

// TestCopy moves images between two daemons with kiln.Copy, which is all there is.
func TestCopy(t *testing.T) {
	a, b := connect(t).Images(), connect(t).Images()
	m, r := formattest.Split(t)
	for _, files := range [][][]byte{{formattest.Unified(t)}, {m, r}} {
		var paths []string
		for _, f := range files {
			paths = append(paths, formattest.Write(t, "f", f))
		}
		img, err := kiln.Copy(t.Context(), a, remote.Files{Paths: paths}, "")
		if err != nil {
			t.Fatal(err)
		}
		name := img.Fingerprint.Short()
		for range 2 { // the second time nothing moves
			got, err := kiln.Copy(t.Context(), b, a, name)
			if err != nil || got.Fingerprint != img.Fingerprint {
				t.Fatalf("%v, %v", got.Fingerprint, err)
			}
		}
		s, err := b.Open(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		for i := range files {
			if _, err := s.Next(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, files[i]) {
				t.Errorf("file %d is another: %v", i, err)
			}
		}
		if _, err := s.Next(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		s.Close()
	}
}

func TestErrors(t *testing.T) {
	c := connect(t)
	images := c.Images()
	path := formattest.Write(t, "tiny.tar", formattest.Tiny(t, "a"))
	put := func() (kiln.Image, error) {
		s, err := remote.Files{Paths: []string{path}}.Open(t.Context(), kiln.Image{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return images.Put(t.Context(), kiln.Image{Aliases: []kiln.Alias{{Name: "debian"}}}, s)
	}
	first, err := put()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := put(); !errors.Is(err, kiln.Conflict) || again.Fingerprint != first.Fingerprint {
		t.Errorf("again: %v, %v", again.Fingerprint, err)
	}
	if _, _, err := images.Resolve(t.Context(), "debain"); !errors.Is(err, kiln.NotFound) ||
		!strings.Contains(err.Error(), `did you mean "debian"`) {
		t.Errorf("%v", err)
	}
	if err := c.Change(t.Context(), "PUT", "/1.0/images/"+first.Fingerprint.String(), api.ImagePut{}, "stale"); !errors.Is(err, kiln.Stale) {
		t.Errorf("%v", err)
	}
	if _, err := c.Exec(t.Context(), "none", api.InstanceExecPost{Command: []string{"true"}},
		client.ExecIO{}); !errors.Is(err, kiln.NotFound) {
		t.Errorf("%v", err)
	}
	if _, err := client.Unix("/nowhere").Get(t.Context(), "/1.0", nil, nil); !errors.Is(err, kiln.Network) ||
		!strings.Contains(err.Error(), "kiln daemon") {
		t.Errorf("%v", err)
	}
	if has, err := images.Has(t.Context(), kiln.Fingerprint{1}); has || err != nil {
		t.Errorf("%v, %v", has, err)
	}
}
