package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/foreign"
)

// shareInstance makes a secret by which another server can copy an instance.
func (s *Server) shareInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.InstanceSharePost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if post.Snapshot != "" {
		name += "/" + post.Snapshot
	}
	if err := s.mayWait(r); err != nil {
		return nil, err
	}
	return s.d.ShareInstance(r.Context(), name, post.InstanceOnly)
}

func wireTransferInstance(m kiln.InstanceState) api.TransferInstance {
	return api.TransferInstance{
		Name: m.Name, Architecture: m.Architecture, Description: m.Description, Ephemeral: m.Ephemeral,
		Profiles: orNone(m.Profiles),
		Config:   orEmpty(m.Config), Devices: orEmpty(m.Devices), CreatedAt: m.CreatedAt, ExpiresAt: m.ExpiresAt,
		LastUsedAt: m.LastUsedAt,
		Trigger:    m.Trigger, Base: fingerprintText(m.Base), Layers: orNone(m.Layers), Metadata: m.Meta,
	}
}

// getTransfer tells who has the secret what there is to copy.
func (s *Server) getTransfer(w http.ResponseWriter, r *http.Request) (any, error) {
	t, err := s.d.Transfer(r.URL.Query().Get("secret"), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	out := api.InstanceTransfer{TransferInstance: wireTransferInstance(t.InstanceState),
		Snapshots: []api.TransferInstance{}, Images: []string{}, Parts: []api.TransferPart{}}
	for _, m := range t.Snapshots {
		out.Snapshots = append(out.Snapshots, wireTransferInstance(m))
	}
	for _, fp := range t.Images {
		out.Images = append(out.Images, fp.String())
	}
	for _, p := range t.Parts {
		out.Parts = append(out.Parts, api.TransferPart{ID: p.ID, Size: p.Size})
	}
	return out, nil
}

// endTransfer uses the secret up.
func (s *Server) endTransfer(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.EndTransfer(r.URL.Query().Get("secret"), r.PathValue("name"))
}

// getTransferPart sends one part.
func (s *Server) getTransferPart(w http.ResponseWriter, r *http.Request) (any, error) {
	write, err := s.d.TransferPart(r.URL.Query().Get("secret"), r.PathValue("name"), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	// It takes its time, whoever asks; when the deadline passes the context ends.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.Method == http.MethodHead {
		return handled{}, nil
	}
	if err := write(r.Context(), w); err != nil {
		// The answer has begun: all that is left is to break it off.
		if r.Context().Err() == nil {
			s.log.Error("send a part of an instance", "instance", r.PathValue("name"), "part", r.PathValue("id"), "err", err)
		}
		panic(http.ErrAbortHandler)
	}
	return handled{}, nil
}

// receiveInstance takes an instance that a client brings from another server.
func (s *Server) receiveInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	form, err := r.MultipartReader()
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "the request is no form: %w", err)
	}
	a, err := s.arrivalOf(w, r, form)
	if err != nil {
		return nil, drained(w, r, err)
	}
	t, err := client.ParseTransfer(a.Transfer)
	if err != nil {
		return nil, drained(w, r, err)
	}
	o := s.d.ReceiveInstance(r.Context(), daemon.CreateSpec{
		Name: a.Name, Start: a.Start, Config: config(a.InstancePut), Source: source(a.Source),
	}, t, func(_ context.Context, id string) (io.ReadCloser, error) { return nextPart(form, id) })
	if final := o.Snapshot(); final.Err != nil {
		_ = drained(w, r, nil)
	}
	return o, nil
}

// maxArrival bounds what is said of an instance that is brought. One with 10,000 snapshots
// has some 100,000 objects.
var maxArrival = foreign.Limit{Bytes: 64 << 20, Objects: 1 << 18, Values: 1 << 21}

// What has more than smallArrival bytes may take much memory: largeArrivals are read at
// once, each within arrivalTime.
const (
	smallArrival  = 64 << 10
	largeArrivals = 2
	arrivalTime   = time.Minute
)

// arrivalOf reads the first part of a form. Errors: Invalid, TooLarge, Busy, Timeout.
func (s *Server) arrivalOf(w http.ResponseWriter, r *http.Request, form *multipart.Reader) (api.InstanceArrival,
	error) {
	var a api.InstanceArrival
	part, err := form.NextRawPart()
	if err != nil || part.FormName() != "instance" {
		return a, kiln.Errorf(kiln.Invalid, "the first part of the form isn't \"instance\"")
	}
	in := bufio.NewReaderSize(part, smallArrival)
	if _, err := in.Peek(smallArrival); err == nil {
		late := time.NewTimer(arrivalTime)
		defer late.Stop()
		select {
		case s.arrivals <- struct{}{}:
			defer func() { <-s.arrivals }()
		case <-late.C:
			return a, kiln.Errorf(kiln.Busy, "other instances are arriving; try again later")
		case <-r.Context().Done():
			return a, r.Context().Err()
		}
		readWithin(w, r, time.Now().Add(arrivalTime))
		defer readWithin(w, r, time.Time{})
	}
	switch err := json.NewDecoder(foreign.NewReader(in, maxArrival)).Decode(&a); {
	case errors.Is(err, kiln.TooLarge):
		return a, kiln.Errorf(kiln.TooLarge, "what is said of the instance is too large: %w; delete snapshots that nobody "+
			"needs, or copy it without them: --instance-only", err)
	case errors.Is(err, kiln.Timeout):
		return a, kiln.Errorf(kiln.Timeout, "the part \"instance\" didn't come whole: %w", err)
	case err != nil:
		return a, kiln.Errorf(kiln.Invalid, "the part \"instance\" is not the JSON that is expected here: %w", err)
	}
	return a, nil
}

// nextPart finds a part of a form, behind others that nobody asked for.
func nextPart(form *multipart.Reader, id string) (io.ReadCloser, error) {
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil, kiln.Errorf(kiln.Invalid, "the form ends without the part %q", id)
		}
		if err != nil {
			if errors.Is(err, kiln.Timeout) {
				return nil, err
			}
			return nil, kiln.Errorf(kiln.Network, "the instance broke off on its way: %w", err)
		}
		if part.FormName() == id {
			return part, nil
		}
	}
}
