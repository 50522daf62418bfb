package server

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/signing"
)

func (s *Server) getImageKeys(w http.ResponseWriter, r *http.Request) (any, error) {
	k, err := s.d.ImageKeys()
	return api.ImageKeys{Keys: k.Keys, Signature: k.Signature}, err
}

func (s *Server) putImageKeys(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.ImageKeys
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.d.SetImageKeys(daemon.ImageKeys{Keys: put.Keys, Signature: put.Signature})
}

func (s *Server) deleteImageKeys(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteImageKeys()
}

func (s *Server) getIndexKey(w http.ResponseWriter, r *http.Request) (any, error) {
	k, err := s.d.IndexKey()
	return api.IndexKey{Public: k.String()}, err
}

func (s *Server) putIndexKey(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.IndexKeyPut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.d.SetIndexKey([]byte(put.Secret), put.Pinned)
}

func (s *Server) deleteIndexKey(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteIndexKey()
}

// indexDocument gives the signed index of the images, or its signature. The error is NotFound.
func (s *Server) indexDocument(ctx context.Context, name string) (document, error) {
	index, signature, err := s.d.SignedIndex(ctx)
	if err != nil {
		return document{}, err
	}
	if strings.HasSuffix(name, signing.SignatureSuffix) {
		return newDocument(signature, time.Now())
	}
	return s.streams.signed.of(index)
}

// keysDocument gives the keys file of the images, or its signature. The error is NotFound.
func (s *Server) keysDocument(_ context.Context, name string) (document, error) {
	k, err := s.d.ServedKeys()
	if err != nil {
		return document{}, err
	}
	text := k.Keys
	if strings.HasSuffix(name, signing.SignatureSuffix) {
		text = k.Signature
	}
	return newDocument([]byte(text), time.Now())
}
