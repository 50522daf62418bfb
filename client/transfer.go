package client

import (
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// TransferPath is where a server tells what there is to copy of an instance, to whom
// has the secret.
func TransferPath(instance string) string {
	return Path("/1.0/kiln/instances", instance) + "/transfer"
}

// PartPath is where a part of it is.
func PartPath(instance, id string) string { return Path(TransferPath(instance)+"/layers", id) }

// Transfer asks what there is to copy of an instance. The client has the secret.
func (c *Client) Transfer(ctx context.Context, instance string) (api.InstanceTransfer, error) {
	var t api.InstanceTransfer
	resp, err := c.Raw(ctx, Request{Method: http.MethodGet, Path: TransferPath(instance)})
	if err != nil {
		return t, err
	}
	defer resp.Body.Close()
	a, err := c.envelope(resp)
	if err != nil {
		return t, c.notShared(instance, err)
	}
	if err := json.Unmarshal(a.Metadata, &t); err != nil {
		return t, kiln.Errorf(kiln.Network, "the answer can't be understood: %w", err)
	}
	return t, nil
}

// notShared says whose refusal it is that a secret isn't known any more.
func (c *Client) notShared(instance string, err error) error {
	if kiln.KindOf(err) != kiln.Denied {
		return err
	}
	return kiln.Errorf(kiln.Denied, "%s doesn't share instance %q for this copy any more, as when it was started again "+
		"meanwhile; copy it once more", c.where, instance)
}

// EndTransfer tells the server that the copy is made.
func (c *Client) EndTransfer(ctx context.Context, instance string) error {
	return c.Change(ctx, http.MethodDelete, TransferPath(instance), nil, "")
}

// TransferPart reads a part, a .tar.zst.
func (c *Client) TransferPart(ctx context.Context, instance, id string) (io.ReadCloser, error) {
	resp, err := c.Raw(ctx, Request{Method: http.MethodGet, Path: PartPath(instance, id)})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		if _, err := c.envelope(resp); err != nil {
			return nil, c.notShared(instance, err)
		}
		return nil, kiln.Errorf(kiln.Network, "%s answers %q in the place of a part", c.where, resp.Status)
	}
	return resp.Body, nil
}

// SendInstance brings an instance that another server told of, with parts of it in
// the order in which that names them, and gives the operation's ID.
func (c *Client) SendInstance(ctx context.Context, a api.InstanceArrival, parts []string,
	open func(id string) (io.ReadCloser, error)) (string, error) {
	r, w := io.Pipe()
	m := multipart.NewWriter(w)
	go func() { w.CloseWithError(writeArrival(m, a, parts, open)) }()
	defer r.Close()
	_, op, err := c.Do(ctx, Request{
		Method: http.MethodPost, Path: "/1.0/kiln/instances", Body: io.Reader(r),
		Header: http.Header{"Content-Type": {m.FormDataContentType()}},
	}, nil)
	if err != nil {
		return "", err
	}
	if op == nil {
		return "", kiln.Errorf(kiln.Network, "the server didn't start an operation")
	}
	_, err = c.Wait(ctx, op.ID)
	return op.ID, err
}

func writeArrival(m *multipart.Writer, a api.InstanceArrival, parts []string,
	open func(id string) (io.ReadCloser, error)) error {
	w, err := m.CreateFormField("instance")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(a); err != nil {
		return err
	}
	for _, id := range parts {
		if w, err = m.CreateFormFile(id, id+".tar.zst"); err != nil {
			return err
		}
		if err := copyPart(w, id, open); err != nil {
			return err
		}
	}
	return m.Close()
}

func copyPart(w io.Writer, id string, open func(id string) (io.ReadCloser, error)) error {
	r, err := open(id)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.CopyBuffer(onlyWriter{w}, r, make([]byte, 256<<10)); err != nil {
		return kiln.Errorf(kiln.Network, "the part %s broke off: %w", id, err)
	}
	return nil
}

// ParseTransfer reads what a server says of an instance. The error is Invalid when
// that can't be.
func ParseTransfer(w api.InstanceTransfer) (kiln.Transfer, error) {
	const most = 100_000 // of anything
	t := kiln.Transfer{}
	if len(w.Snapshots) > most || len(w.Parts) > most || len(w.Images) > most {
		return t, kiln.Errorf(kiln.Invalid, "the instance has more parts than can be")
	}
	var err error
	if t.InstanceState, err = parseTransferInstance(w.TransferInstance); err != nil {
		return t, err
	}
	for _, s := range w.Snapshots {
		m, err := parseTransferInstance(s)
		if err != nil {
			return t, err
		}
		t.Snapshots = append(t.Snapshots, m)
	}
	for _, word := range w.Images {
		fp, err := kiln.ParseFingerprint(word)
		if err != nil {
			return t, err
		}
		t.Images = append(t.Images, fp)
	}
	for _, p := range w.Parts {
		t.Parts = append(t.Parts, kiln.Part{ID: p.ID, Size: p.Size})
	}
	return t, nil
}

func parseTransferInstance(w api.TransferInstance) (kiln.InstanceState, error) {
	m := kiln.InstanceState{
		Name: w.Name, Description: w.Description, Ephemeral: w.Ephemeral, Profiles: w.Profiles, Config: w.Config,
		Devices:   w.Devices,
		CreatedAt: w.CreatedAt, ExpiresAt: w.ExpiresAt, LastUsedAt: w.LastUsedAt, Trigger: w.Trigger,
		Stack: kiln.Stack{Layers: w.Layers, Meta: w.Metadata},
	}
	var err error
	if m.Architecture, err = kiln.ParseArch(w.Architecture); err != nil {
		return m, err
	}
	if w.Base != "" {
		m.Base, err = kiln.ParseFingerprint(w.Base)
	}
	return m, err
}
