package daemon

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/grant"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/trust"
)

// A Client is somebody with a certificate who is trusted.
type Client = db.Certificate

// clients are the trusted clients as every request asks for them.
type clients struct {
	loading sync.Mutex // held from the rows to the map, so that no older list replaces a newer one

	mu   sync.RWMutex
	byFP map[string]Client
	ca   *x509.CertPool // server.ca; nil: none
	// changed is called when somebody may be trusted less than before; nil: nobody listens.
	changed func(context.Context)
	// revoked has the serial numbers of ca.crl, of certificates of that authority.
	revoked map[string]bool
}

// loadClients reads who is trusted. Whoever reads later has the later rows: a client
// that is removed isn't brought back by who read before that. The rows count at once,
// also if who changed them is gone by now, or server.ca or ca.crl can't be read: of
// these, what was read before goes on to hold.
func (d *Daemon) loadClients(ctx context.Context) error { return d.loadClientsOf(ctx, readAuthority) }

// loadClientsOf is loadClients with what reads server.ca, after the rows.
func (d *Daemon) loadClientsOf(ctx context.Context, authority func(path string) (*x509.CertPool, error)) error {
	ctx = context.WithoutCancel(ctx)
	d.clients.loading.Lock()
	defer d.clients.loading.Unlock()
	list, err := d.db.Certificates(ctx)
	if err != nil {
		return err
	}
	byFP := map[string]Client{}
	for _, c := range list {
		if c.Damage == "" { // who may do what isn't known of the others
			byFP[c.Fingerprint] = c
		}
	}
	ca, caErr := authority(filepath.Join(d.cfg.Dir, "server.ca"))
	revoked, crlErr := revokedBy(filepath.Join(d.cfg.Dir, "ca.crl"))
	d.clients.mu.Lock()
	d.clients.byFP = byFP
	if err = errors.Join(caErr, crlErr); err == nil {
		d.clients.ca, d.clients.revoked = ca, revoked
	}
	d.clients.mu.Unlock()
	d.clientsChanged(ctx)
	return err
}

// settleClient has what was decided of a client hold at once, also if the rows can't be read:
// nil for one that is trusted no more. It comes after the row.
func (d *Daemon) settleClient(ctx context.Context, fingerprint string, c *Client) {
	d.clients.loading.Lock() // who reads them has read before, and is done, or reads this one
	d.clients.mu.Lock()
	if c == nil {
		delete(d.clients.byFP, fingerprint)
	} else if _, trusted := d.clients.byFP[fingerprint]; trusted { // else it was removed meanwhile
		d.clients.byFP[fingerprint] = *c
	}
	d.clients.mu.Unlock()
	d.clients.loading.Unlock()
	d.clientsChanged(context.WithoutCancel(ctx))
}

// readAuthority reads the certificates of who may issue those of clients; nil: there is
// no file.
func readAuthority(path string) (*x509.CertPool, error) {
	text, err := disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(text) {
		return nil, kiln.Errorf(kiln.Invalid, "%s has no certificate in PEM form", path)
	}
	return ca, nil
}

// WatchClients has f called whenever somebody may be trusted less than before, with the
// context of the request that brought it.
func (d *Daemon) WatchClients(f func(context.Context)) {
	d.clients.mu.Lock()
	defer d.clients.mu.Unlock()
	d.clients.changed = f
}

func (d *Daemon) clientsChanged(ctx context.Context) {
	d.clients.mu.RLock()
	f := d.clients.changed
	d.clients.mu.RUnlock()
	if f != nil {
		f(ctx)
	}
}

// revokedBy reads the serial numbers of a list of revoked certificates, RFC 5280, in
// PEM or DER form. If there is no file, none is revoked.
func revokedBy(path string) (map[string]bool, error) {
	b, err := disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	serials, err := parseRevoked(b)
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "%s is not a list of revoked certificates: %w", path, err)
	}
	return serials, nil
}

// parseRevoked reads such a list.
func parseRevoked(b []byte) (map[string]bool, error) {
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	list, err := x509.ParseRevocationList(b)
	if err != nil {
		return nil, err
	}
	serials := map[string]bool{}
	for _, e := range list.RevokedCertificateEntries {
		serials[e.SerialNumber.String()] = true
	}
	return serials, nil
}

// Trusted tells who shows a certificate, if that is somebody who is trusted: whose
// certificate is for reading metrics isn't.
func (d *Daemon) Trusted(ctx context.Context, shown *x509.Certificate) (Client, bool) {
	c, ok := d.Known(ctx, shown)
	return c, ok && c.Type != db.MetricsCertificate
}

// Scrapes reports whether a client's certificate is for reading metrics, and nothing else.
func Scrapes(c Client) bool { return c.Type == db.MetricsCertificate }

// Known is Trusted for certificates of both types.
func (d *Daemon) Known(ctx context.Context, shown *x509.Certificate) (Client, bool) {
	fp := trust.Fingerprint(shown)
	if now := time.Now(); now.After(shown.NotAfter) || now.Before(shown.NotBefore) {
		return Client{Fingerprint: fp}, false
	}
	d.clients.mu.RLock()
	c, ok := d.clients.byFP[fp]
	ca, revoked := d.clients.ca, d.clients.revoked[shown.SerialNumber.String()]
	d.clients.mu.RUnlock()
	if ca == nil {
		return c, ok
	}
	if revoked && d.issued(ca, shown) == nil {
		return Client{Fingerprint: fp}, false
	}
	if ok {
		return c, ok
	}
	if v, err := d.setting(ctx, trustCA); err != nil || !kiln.IsTrue(v) {
		return c, false
	}
	return Client{Fingerprint: fp, Name: shown.Subject.CommonName}, d.issued(ca, shown) == nil
}

// WhyUntrusted says why whoever shows a certificate isn't trusted; nil: who shows none.
func (d *Daemon) WhyUntrusted(ctx context.Context, shown *x509.Certificate) string {
	if shown == nil {
		return "no certificate was shown"
	}
	now := time.Now()
	d.clients.mu.RLock()
	c, known := d.clients.byFP[trust.Fingerprint(shown)]
	d.clients.mu.RUnlock()
	_, trusted := d.Trusted(ctx, shown)
	switch {
	case now.After(shown.NotAfter):
		return "the certificate expired on " + shown.NotAfter.UTC().Format(time.DateOnly)
	case now.Before(shown.NotBefore):
		return "the certificate isn't valid before " + shown.NotBefore.UTC().Format(time.DateOnly)
	case c.Type == db.MetricsCertificate:
		return "the certificate is for metrics only"
	case trusted && c.Restricted:
		return "the certificate is restricted to projects, and none of them is left"
	case known:
		return "the certificate is revoked by its authority"
	}
	return "the certificate isn't one of a trusted client"
}

// issued reports whether an authority has issued a client's certificate.
func (d *Daemon) issued(ca *x509.CertPool, shown *x509.Certificate) error {
	_, err := shown.Verify(x509.VerifyOptions{Roots: ca, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// Clients gives the trusted clients, by name.
func (d *Daemon) Clients(ctx context.Context) ([]Client, error) { return d.db.Certificates(ctx) }

// Client gives the one whose fingerprint begins with some digits, or else the one with
// that name. Errors: NotFound, Ambiguous.
func (d *Daemon) Client(ctx context.Context, word string) (Client, error) {
	all, err := d.Clients(ctx)
	if err != nil {
		return Client{}, err
	}
	var list, named []Client
	for _, c := range all {
		if word != "" && strings.HasPrefix(c.Fingerprint, strings.ToLower(word)) {
			list = append(list, c)
		}
		if word != "" && c.Name == word {
			named = append(named, c)
		}
	}
	if len(list) == 0 {
		list = named
	}
	switch len(list) {
	case 0:
		return Client{}, kiln.Errorf(kiln.NotFound, "Certificate not found: no trusted client has the name, or a "+
			"fingerprint that begins with, %q%s; see: kiln config trust list", word, kiln.DidYouMean(word, clientNames(all)))
	case 1:
		return list[0], nil
	}
	return Client{}, kiln.Errorf(kiln.Ambiguous, "%d certificates have the name, or begin with, %q; type more digits of "+
		"the fingerprint", len(list), word)
}

// clientNames are what clients are called.
func clientNames(all []Client) []string {
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	return names
}

// AddClient trusts a certificate from now on. Errors: Conflict, Invalid for one
// that is expired or restricted to nothing that exists.
func (d *Daemon) AddClient(ctx context.Context, cert *x509.Certificate, c Client) error {
	if time.Now().After(cert.NotAfter) {
		return kiln.Errorf(kiln.Invalid, "the certificate expired on %s", cert.NotAfter.UTC().Format(time.DateOnly))
	}
	if c.Name == "" {
		c.Name = cert.Subject.CommonName
	}
	if err := cmp.Or(checkClient(&c), d.checkProjects(ctx, c.Projects)); err != nil {
		return err
	}
	c.Fingerprint, c.PEM, c.AddedAt = trust.Fingerprint(cert), trust.PEM(cert), time.Now()
	audit.About(ctx, "", certificateURL(c.Fingerprint))
	noteClient(ctx, c)
	if err := d.db.CreateCertificate(ctx, c); err != nil {
		return err
	}
	d.tell(ctx, "certificate-created", certificateURL(c.Fingerprint), nil)
	return d.loadClients(ctx)
}

// noteClient says of the event of a client what it is.
func noteClient(ctx context.Context, c Client) {
	audit.Note(ctx, "name", c.Name)
	if c.Type == db.MetricsCertificate {
		audit.Note(ctx, "type", c.Type)
	}
	if c.Restricted {
		audit.Note(ctx, "restricted_to", append([]string{}, c.Projects...))
	}
}

// checkClient refuses types that there aren't, and names that would move the cursor of
// whoever lists them. Without a type it is an ordinary client. The error is Invalid.
func checkClient(c *Client) error {
	switch c.Type {
	case "":
		c.Type = db.ClientCertificate
	case db.ClientCertificate, db.MetricsCertificate:
	default:
		return kiln.Errorf(kiln.Invalid, "certificates of type %q are not supported; the types are client and metrics",
			c.Type)
	}
	if strings.ContainsFunc(c.Name, unicode.IsControl) {
		return kiln.Errorf(kiln.Invalid, "the name of a client, %q, has control characters; choose another", c.Name)
	}
	return kiln.CheckDescription(c.Description)
}

// checkProjects refuses projects that a client can't be restricted to, since they aren't
// there: whoever makes one of that name later hardly means this client. The error is
// Invalid.
func (d *Daemon) checkProjects(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	all, err := d.db.Projects(ctx)
	if err != nil {
		return err
	}
	var known []string
	for _, p := range all {
		known = append(known, p.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return kiln.Errorf(kiln.Invalid, "there is no project %q for the client to use%s; see: kiln project list", name,
				kiln.DidYouMean(name, known))
		}
	}
	return nil
}

// UpdateClient lets change say what is new of a client; nobody else changes it
// meanwhile. Errors: NotFound, Invalid, Integrity for a damaged row, those of change.
func (d *Daemon) UpdateClient(ctx context.Context, fingerprint string, change func(*Client) error) error {
	var now Client
	err := d.db.EditCertificate(ctx, fingerprint, func(c *Client) error {
		had := slices.Clone(c.Projects)
		if err := change(c); err != nil {
			return err
		}
		noteClient(ctx, *c)
		more := slices.DeleteFunc(slices.Clone(c.Projects), func(p string) bool { return slices.Contains(had, p) })
		err := cmp.Or(checkClient(c), d.checkProjects(ctx, more))
		now = *c
		return err
	})
	if err != nil {
		return err
	}
	d.settleClient(ctx, fingerprint, &now)
	d.tell(ctx, "certificate-updated", certificateURL(fingerprint), nil)
	return d.loadClients(ctx)
}

// RemoveClient stops to trust a client, whatever is in the way of reading the others anew. The
// error is NotFound.
func (d *Daemon) RemoveClient(ctx context.Context, fingerprint string) error {
	if err := d.db.DeleteCertificate(ctx, fingerprint); err != nil {
		return err
	}
	d.settleClient(ctx, fingerprint, nil)
	d.tell(ctx, "certificate-deleted", certificateURL(fingerprint), nil)
	return d.loadClients(ctx)
}

func certificateURL(fp string) string { return "/1.0/certificates/" + fp }

// IssueToken makes a token by which one client can introduce itself. It is used up
// by that, and dies with the operation it is shown by. The error is Invalid when
// nobody could use it.
func (d *Daemon) IssueToken(ctx context.Context, c Client) (*op.Operation, error) {
	if err := cmp.Or(checkClient(&c), d.checkProjects(ctx, c.Projects)); err != nil {
		return nil, err
	}
	addresses := d.Addresses()
	if len(addresses) == 0 {
		return nil, kiln.Errorf(kiln.Invalid, "a token is of no use while the daemon doesn't listen on the network; make "+
			"it with: kiln config set core.https_address \":8443\"")
	}
	v, err := d.setting(ctx, tokenExpiry)
	if err != nil {
		return nil, err
	}
	expires, err := kiln.ParseExpiry(v, time.Now())
	if err != nil {
		return nil, err
	}
	t, err := d.joinTokens.Add(clientOf(ctx).Name, invitation{c, func(fingerprint, from string) {
		audit.Note(ctx, "certificate", fingerprint)
		audit.Note(ctx, "address", from)
	}})
	if err != nil {
		return nil, err
	}
	audit.About(ctx, joinToken, "")
	noteClient(ctx, c)
	meta := map[string]any{
		"secret": t.Secret, "fingerprint": trust.Fingerprint(d.cert.Leaf), "addresses": addresses,
		"request": map[string]any{"name": c.Name, "type": c.Type, "restricted": c.Restricted,
			"projects": append([]string{}, c.Projects...), "certificate": "", "password": "", "token": true},
	}
	var life time.Duration
	if !expires.IsZero() {
		meta["expiresAt"] = expires.UTC().Format(time.RFC3339)
		life = time.Until(expires)
	}
	return d.Ops.Start(ctx, "Executing operation", op.Options{Class: op.Token, Metadata: meta, MayCancel: true},
		func(ctx context.Context, _ *op.Operation) error {
			defer t.Drop()
			spent, err := t.Wait(ctx, life, 0)
			if err == nil && !spent {
				err = kiln.Errorf(kiln.Timeout, "the token expired")
			}
			return err
		}), nil
}

// Introduce trusts a client that shows a token, or the trust password. How long a guess
// waits before it is judged depends on the wrong ones of the same address, whatever became of
// their connections. A token is used up only when the client was added. Errors: Denied, Busy,
// and those of AddClient.
func (d *Daemon) Introduce(ctx context.Context, from, word string, cert *x509.Certificate, name string) error {
	t := d.takeToken(word)
	if t == nil {
		if err := d.checkPassword(ctx, from, word); err != nil {
			return err
		}
		audit.Note(ctx, "by", trustPassword)
		audit.Keep(ctx)
		return d.AddClient(ctx, cert, Client{Name: name})
	}
	audit.Note(ctx, "by", "join token")
	audit.Keep(ctx)
	c := t.Value.Client
	c.Name = cmp.Or(name, c.Name)
	if err := d.AddClient(ctx, cert, c); err != nil {
		t.GiveBack()
		return err
	}
	t.Value.used(trust.Fingerprint(cert), from)
	t.Spend()
	return nil
}

// An invitation is what a join token gives.
type invitation struct {
	Client
	used func(fingerprint, from string) // is told who used it
}

// takeToken gives what a token stands for, for one holder alone; nil: it is none that works.
// Nobody finds one by guessing, so nobody has to wait who has one.
func (d *Daemon) takeToken(word string) *grant.Grant[invitation] {
	if t, err := trust.ParseToken(word); err == nil {
		word = t.Secret
	}
	return d.joinTokens.Take(word)
}

// checkPassword compares what an address guesses with the trust password. Errors: Denied, Busy,
// and that of ctx.
func (d *Daemon) checkPassword(ctx context.Context, from, word string) error {
	hashed, err := d.setting(ctx, trustPassword)
	if err != nil {
		return err
	}
	right, err := d.throttle.judge(ctx, audit.Network(from), func() bool { return trust.CheckPassword(hashed, word) })
	if err == nil && !right {
		err = kiln.Errorf(kiln.Denied, "not authorized: the token or password isn't one that works here (a token works "+
			"once, until it expires)")
	}
	return err
}

// An imageGrant lets somebody who isn't trusted have one private image, or bring one.
type imageGrant struct {
	in    project.Project // whose it is, or will be
	image kiln.Fingerprint
	push  *ImportSpec // what becomes of an image that is brought; nil: one is fetched
	of    archive.Client
}

// How long a secret of an image works: as a whole, and after it was last used. A puller
// looks at an image, then fetches it, in several requests if need be.
const (
	secretLife = time.Hour
	secretIdle = time.Minute
)

// useImage finds the grant of a secret for an image; nil: none.
func (d *Daemon) useImage(secret string, fp kiln.Fingerprint, push bool) *grant.Grant[imageGrant] {
	return d.imageGrants.Use(secret, func(g imageGrant) bool { return (g.push != nil) == push && g.image == fp })
}

// ShareImage makes a secret by which somebody who isn't trusted can have a private
// image for a while. The error is Conflict when there are too many.
func (d *Daemon) ShareImage(ctx context.Context, fp kiln.Fingerprint) (*op.Operation, error) {
	o, err := d.startSecret(ctx, "Image download token", imageGrant{image: fp}, map[string]any{})
	if err == nil {
		d.tell(ctx, "image-secret-created", imageURL(fp), nil)
	}
	return o, err
}

// startSecret makes the operation that shows a secret in its metadata and ends with it.
func (d *Daemon) startSecret(ctx context.Context, title string, value imageGrant,
	meta map[string]any) (*op.Operation, error) {
	var err error
	if value.in, err = project.Of(ctx); err != nil {
		return nil, err
	}
	value.of = clientOf(ctx)
	g, err := d.imageGrants.Add(value.of.Name, value)
	if err != nil {
		return nil, err
	}
	meta["secret"] = g.Secret
	options := op.Options{Class: op.Token, Metadata: meta, MayCancel: true,
		Resources: map[string][]string{"images": {imageURL(value.image)}}}
	return d.Ops.Start(ctx, title, options, func(ctx context.Context, _ *op.Operation) error {
		defer g.Drop()
		_, err := g.Wait(ctx, secretLife, secretIdle)
		return err
	}), nil
}

// Shared reports whether a secret opens a private image: its own, or that of an
// instance which stands on it. The context that it gives is about the image's project.
func (d *Daemon) Shared(ctx context.Context, secret string, fp kiln.Fingerprint) (context.Context, bool) {
	if g := d.useImage(secret, fp, false); g != nil {
		return project.In(ctx, g.Value.in), true
	}
	ofInstance := func(x *share) bool { return slices.Contains(x.Images, fp) }
	if g := d.shares.Use(secret, ofInstance); g != nil {
		return project.In(ctx, g.Value.in), true
	}
	return ctx, false
}

// Expected tells what becomes of an image that somebody brings with a secret, and gives a
// context that is about its project, and about who made the secret. The error is Denied.
func (d *Daemon) Expected(ctx context.Context, secret string, fp kiln.Fingerprint) (context.Context, ImportSpec,
	error) {
	g := d.useImage(secret, fp, true)
	if g == nil {
		return ctx, ImportSpec{}, kiln.Errorf(kiln.Denied, "not authorized")
	}
	return forClient(project.In(ctx, g.Value.in), g.Value.of), *g.Value.push, nil
}
