package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/metrics"
)

// exportImage sends an image as it came: one file as it is, with ranges, or two as
// parts of a form.
func (s *Server) exportImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.usableImage(r)
	if err != nil {
		return nil, err
	}
	return s.sendImage(w, r, img)
}

func (s *Server) sendImage(w http.ResponseWriter, r *http.Request, img kiln.Image) (any, error) {
	if len(img.Files) == 1 {
		return s.sendFile(w, r, img, img.Files[0])
	}
	sent := &sender{ResponseWriter: w}
	form := multipart.NewWriter(sent)
	w.Header().Set("Content-Type", form.FormDataContentType())
	if r.Method == http.MethodHead {
		return handled{}, nil
	}
	end := s.d.Counters.Serve(metrics.ServedFile)
	defer func() { end(sent.bytes) }()
	for i, file := range img.Files {
		if err := s.exportPart(r.Context(), form, img, i); err != nil {
			// The answer has begun: all that is left is to break it off.
			level := slog.LevelError
			if r.Context().Err() != nil {
				level = slog.LevelDebug // the client went away
			}
			s.log.Log(r.Context(), level, "export an image", "image", img.Fingerprint, "file", file.Role, "err", err)
			panic(http.ErrAbortHandler)
		}
	}
	return handled{}, form.Close()
}

// sendImageToInstance answers an instance that may have images: the public ones, and what
// this server has only as a cache of others.
func (s *Server) sendImageToInstance(w http.ResponseWriter, r *http.Request, fingerprint string) {
	err := kiln.Errorf(kiln.NotFound, "Image not found")
	if fp, perr := kiln.ParseFingerprint(fingerprint); perr == nil {
		img, gerr := s.d.Images.Get(r.Context(), fp)
		if gerr = cmp.Or(gerr, img.Whole(), img.Present()); gerr == nil && (img.Public || img.Cached) {
			_, err = s.sendImage(w, r, img)
		}
	}
	if err != nil {
		s.answerError(w, r, err)
	}
}

// sendFile sends one file of an image, or what is asked for of it.
func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, img kiln.Image, file kiln.File) (any, error) {
	f, err := s.d.Images.OpenFile(r.Context(), file)
	if errors.Is(err, kiln.Integrity) && !callerOf(r).trusted {
		err = kiln.Errorf(kiln.NotFound, "%w", err) // as everybody is told from now on
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "inline;filename="+img.Fingerprint.String()+file.Ext)
	w.Header().Set("ETag", `"`+file.Hash.String()+`"`)
	s.serve(w, r, metrics.ServedFile, img.UploadedAt.Truncate(time.Second), f)
	return handled{}, nil
}

// getImageFile sends one file of an image by its hash, so that also those of split
// images can be had in pieces.
func (s *Server) getImageFile(w http.ResponseWriter, r *http.Request) (any, error) {
	img, f, err := s.file(r)
	if err != nil {
		return nil, err
	}
	return s.sendFile(w, r, img, f)
}

// file finds the file of an image that a request names by its hash.
func (s *Server) file(r *http.Request) (kiln.Image, kiln.File, error) {
	img, err := s.usableImage(r)
	if err != nil {
		return img, kiln.File{}, err
	}
	for _, f := range img.Files {
		if f.Hash.String() == r.PathValue("hash") {
			return img, f, nil
		}
	}
	return img, kiln.File{}, kiln.Errorf(kiln.NotFound, "Image not found")
}

func (s *Server) shareImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.usableImage(r)
	if err != nil {
		return nil, err
	}
	if err := s.mayWait(r); err != nil {
		return nil, err
	}
	return s.d.ShareImage(r.Context(), img.Fingerprint)
}

// pushImage sends an image to another server.
func (s *Server) pushImage(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.ImageExportPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	img, err := s.usableImage(r)
	if err != nil {
		return nil, err
	}
	return s.d.PushImage(r.Context(), img, daemon.Target{Server: post.Target, Certificate: post.Certificate,
		Secret: post.Secret, Project: post.Project})
}

func (s *Server) exportPart(ctx context.Context, form *multipart.Writer, img kiln.Image, i int) error {
	file := img.Files[i]
	name := img.Fingerprint.String() + file.Ext
	if file.Role == kiln.Metadata {
		name = "meta-" + name
	}
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="%s"; filename="%s"`, file.Role, name))
	h.Set("Content-Type", "application/octet-stream")
	part, err := form.CreatePart(h)
	if err != nil {
		return err
	}
	f, err := s.d.Images.OpenFile(ctx, file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(part, f)
	return err
}
