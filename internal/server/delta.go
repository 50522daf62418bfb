package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/metrics"
	"github.com/kiln-containers/kiln/internal/store"
)

// getFileIndex sends the index of a file of an image: who has a similar file finds
// out with it what to ask for.
func (s *Server) getFileIndex(w http.ResponseWriter, r *http.Request) (any, error) {
	_, f, err := s.file(r)
	if err != nil {
		return nil, err
	}
	return s.sendIndex(w, r, f)
}

func (s *Server) sendIndex(w http.ResponseWriter, r *http.Request, f kiln.File) (any, error) {
	path, err := s.d.FileIndex(r.Context(), f)
	if err != nil {
		return nil, err
	}
	return s.sendBeside(w, r, metrics.ServedIndex, path)
}

// getPatch sends what makes a file of an image of a file that the client has. The
// client must be allowed to see an image with that file, too.
func (s *Server) getPatch(w http.ResponseWriter, r *http.Request) (any, error) {
	_, f, err := s.file(r)
	if err != nil {
		return nil, err
	}
	return s.sendPatch(w, r, f, r.PathValue("base"), !callerOf(r).trusted)
}

func (s *Server) sendPatch(w http.ResponseWriter, r *http.Request, f kiln.File, base string, public bool) (any, error) {
	from, err := s.baseFile(r.Context(), base, public)
	if err != nil {
		return nil, err
	}
	path, err := s.d.Patch(r.Context(), from, f)
	if err != nil {
		if kind := kiln.KindOf(err); kind == kiln.Invalid || kind == kiln.Unsupported {
			err = kiln.Errorf(kiln.NotFound, "there is no patch between these files: %w", err)
		}
		return nil, err
	}
	return s.sendBeside(w, r, metrics.ServedPatch, path)
}

// baseFile finds a file of any image that may be seen.
func (s *Server) baseFile(ctx context.Context, word string, public bool) (kiln.File, error) {
	hash, err := kiln.ParseFingerprint(word)
	if err != nil {
		return kiln.File{}, kiln.Errorf(kiln.NotFound, "Image not found")
	}
	list, err := s.d.Images.List(ctx, store.Query{File: hash, Public: public, Files: true})
	if err != nil {
		return kiln.File{}, err
	}
	for _, img := range list {
		if img.Damage != "" {
			continue
		}
		for _, f := range img.Files {
			if f.Hash == hash {
				return f, nil
			}
		}
	}
	return kiln.File{}, kiln.Errorf(kiln.NotFound, "Image not found")
}

// sendBeside sends a file that lies beside the images and never changes.
func (s *Server) sendBeside(w http.ResponseWriter, r *http.Request, what, path string) (any, error) {
	f, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+strings.ReplaceAll(fi.Name(), ".", "-")+`"`)
	s.serve(w, r, what, fi.ModTime(), f)
	return handled{}, nil
}

// streamsBeside sends what lies beside a file under /streams/files.
func (s *Server) streamsBeside(w http.ResponseWriter, r *http.Request, img kiln.Image, name string) (any, error) {
	for _, f := range img.Files {
		rest, ok := strings.CutPrefix(name, string(f.Role)+f.Ext)
		if !ok {
			continue
		}
		if rest == ".kidx" {
			return s.sendIndex(w, r, f)
		}
		if base, ok := strings.CutPrefix(rest, ".kpatch-"); ok {
			return s.sendPatch(w, r, f, base, true)
		}
	}
	return nil, kiln.Errorf(kiln.NotFound, "Image not found")
}
