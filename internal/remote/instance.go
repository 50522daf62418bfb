package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/fetch"
)

// An Instance is one that a kiln server shares, by a secret.
type Instance struct {
	name    string
	servers []string // URLs of one server, the one that answered first
	http    *http.Client
	fetch   *fetch.Client
	access  Access
	done    int64 // bytes of the parts before
}

// Instance gives an instance of another server. Nothing is sent yet. The error is
// Invalid or Unsupported for a remote that can't be.
func (o *Opener) Instance(r kiln.Remote, name string, a Access) (*Instance, error) {
	switch r.Protocol {
	case kiln.ProtocolKiln, kiln.ProtocolLXD, "":
	default:
		return nil, kiln.Errorf(kiln.Unsupported, "instances are copied between kiln servers, not by the protocol %s; "+
			"publish the instance there, and copy the image", r.Protocol)
	}
	hc, err := o.HTTP(r)
	if err != nil {
		return nil, err
	}
	return &Instance{
		name: name, servers: append([]string{r.Server}, r.Mirrors...), http: hc, access: a,
		fetch: &fetch.Client{HTTP: hc, Header: http.Header{"User-Agent": {o.UserAgent}}, Stall: o.stall(),
			Pause: o.stall() / 120},
	}, nil
}

func (i *Instance) at(server string) *client.Client {
	return client.HTTPS(server, i.http).WithSecret(i.access.Secret)
}

// Server is the URL under which the server answers.
func (i *Instance) Server() string { return i.servers[0] }

// Transfer asks what there is to copy. Errors: Denied, Network, Invalid for an answer
// that makes no sense.
func (i *Instance) Transfer(ctx context.Context) (kiln.Transfer, error) {
	var errs []error
	for n, server := range i.servers {
		t, err := i.at(server).Transfer(ctx, i.name)
		if err == nil {
			i.servers[0], i.servers[n] = i.servers[n], i.servers[0]
			return client.ParseTransfer(t)
		}
		errs = append(errs, err)
		if !errors.Is(err, kiln.Network) && !errors.Is(err, kiln.Timeout) {
			break
		}
	}
	return kiln.Transfer{}, errors.Join(errs...)
}

// Part reads a part, a .tar.zst, whatever happens on the way: the bytes are the same
// each time.
func (i *Instance) Part(ctx context.Context, id string) (io.ReadCloser, error) {
	var urls []string
	for _, server := range i.servers {
		urls = append(urls, i.at(server).URL(client.PartPath(i.name, id)))
	}
	before := i.done
	return &part{i, i.fetch.Open(ctx, fetch.File{URLs: urls, Size: -1, Progress: func(server string, n int64) {
		i.done = before + n
		if i.access.Progress != nil {
			i.access.Progress(server, i.done)
		}
	}})}, nil
}

// Close tells the server that nothing more is needed.
func (i *Instance) Close(ctx context.Context) error {
	return i.at(i.Server()).EndTransfer(ctx, i.name)
}

// part is a part on its way. Its errors don't tell the secret.
type part struct {
	of *Instance
	io.ReadCloser
}

// Read implements io.Reader.
func (p *part) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	text := strings.ReplaceAll(err.Error(), p.of.access.Secret, "…")
	text = strings.TrimSuffix(text, ", what is here is kept for the next")
	return n, kiln.Errorf(kiln.KindOf(err), "the files of %q didn't come whole: %s", p.of.name, text)
}
