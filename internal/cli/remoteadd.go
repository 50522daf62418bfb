package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/trust"
)

// addOptions are the flags of remote add.
type addOptions struct {
	accept, public, http                bool
	fingerprint, token, password, proxy string
	project, caFile, key                string
	protocol                            *string
	mirrors                             []string
}

// told is the fingerprint of the server's certificate that a token has in it, so that
// nobody needs to be asked about it; "": none.
func (o addOptions) told() string {
	token, err := trust.ParseToken(o.token)
	if err != nil {
		return ""
	}
	return token.Fingerprint
}

func (a *app) remoteAddCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "add [<remote>] <address>|<token>", Short: "Add a remote server", Args: cobra.RangeArgs(1, 2),
		Long: "Add a server: an address, or a token of \"kiln config trust add\" there, which has the addresses in it.\n\n" +
			"If the server's certificate is not signed by a trusted CA, kiln asks whether to trust it; --fingerprint " +
			"and --accept-certificate answer that.\n\n" +
			"With --key only images are taken from there that are signed with that key, as what they are asked for by, " +
			"whoever runs the server: kiln image sign. Instances are not signed.",
	}
	var o addOptions
	f := c.Flags()
	f.BoolVar(&o.accept, "accept-certificate", false, "accept whatever certificate the server shows, from then on only "+
		"that")
	f.StringVar(&o.fingerprint, "fingerprint", "", "SHA-256 of the certificate that the server must show")
	f.StringVar(&o.token, "token", "", "join token, from kiln config trust add")
	f.StringVar(&o.password, "password", "", "trust password of the server")
	f.BoolVar(&o.public, "public", false, "only use its public images; show it no client certificate")
	o.protocol = choiceFlag(c, "protocol", "", "", "protocol of the server", protocols()[1:]...)
	f.StringVar(&o.caFile, "ca", "", "file with the CA certificate of the server, in PEM form")
	f.StringArrayVar(&o.mirrors, "mirror", nil, "URL of a server with the same images (repeatable)")
	f.StringVar(&o.proxy, "proxy", "", "URL of the proxy for this server")
	f.StringVar(&o.project, "project", "", "project there")
	f.StringVar(&o.key, "key", "", "public key of minisign (RW…), or a file with one, that the images there must be "+
		"signed with")
	choiceFlag(c, "auth-type", "", "tls", "how clients authenticate", "tls")
	_ = f.MarkHidden("auth-type")
	f.BoolVar(&o.http, "allow-http", false, "allow a plain http address")
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := a.Config()
		if err != nil {
			return err
		}
		if o.fingerprint != "" {
			if err := checkFingerprint(o.fingerprint); err != nil {
				return err
			}
		}
		name, where := args[0], args[len(args)-1]
		token, terr := trust.ParseToken(where)
		if terr == nil && len(token.Addresses) > 0 {
			if o.accept {
				return usageError{fmt.Errorf("a token says which certificate the server has; leave --accept-certificate out")}
			}
			o.token, o.fingerprint = where, token.Fingerprint
		}
		if given, err := trust.ParseToken(o.token); err == nil && given.Type == "metrics" {
			return kiln.Errorf(kiln.Invalid, "the token is for a client that only reads metrics, and no remote can be made "+
				"of it; it wasn't used up. Get another one there: kiln config trust add --name <client>")
		}
		if len(args) == 1 {
			if name, err = nameOf(where, token); err != nil {
				return err
			}
		}
		if err := place.CheckRemoteName(name); err != nil {
			return err
		}
		if err := notTaken(r, name, where, token, o); err != nil {
			return err
		}
		if len(token.Addresses) > 0 {
			return a.addByToken(c.Context(), r, name, token, o)
		}
		return a.addRemote(c.Context(), r, name, where, o)
	}
	return c
}

// notTaken refuses a name that another remote has. One of the same server may be added
// again, with a certificate or token that says so. The error is Conflict.
func notTaken(r *place.Config, name, where string, token trust.Token, o addOptions) error {
	old, there := r.Remotes[name]
	if !there {
		return nil
	}
	addresses := token.Addresses
	if len(addresses) == 0 {
		addresses = []string{where}
	}
	same := slices.ContainsFunc(addresses, func(addr string) bool {
		addr, err := place.Address(addr, *o.protocol)
		return err == nil && strings.TrimSuffix(addr, "/") == strings.TrimSuffix(old.Addr, "/")
	})
	switch {
	case same && o.fingerprint != "":
		return nil
	case same:
		return kiln.Errorf(kiln.Conflict, "The remote %q already exists, at %s; to accept another certificate of it give "+
			"--fingerprint, else remove it first", name, old.Addr)
	}
	return kiln.Errorf(kiln.Conflict, "The remote %q already exists, and is another server: %s; give the new one another "+
		"name, or remove that one first: kiln remote remove %s", name, old.Addr, name)
}

// nameOf makes a name for a remote of its address.
func nameOf(where string, token trust.Token) (string, error) {
	if len(token.Addresses) > 0 {
		where = token.Addresses[0]
	}
	u, err := place.Address(where, "")
	if err != nil {
		return "", err
	}
	parsed, err := url.Parse(u)
	if err != nil || parsed.Hostname() == "" {
		return "", kiln.Errorf(kiln.Invalid, "give the remote a name: kiln remote add <name> %s", where)
	}
	return strings.ReplaceAll(parsed.Hostname(), ":", "-"), nil
}

// addByToken tries each address that the server said it has.
func (a *app) addByToken(ctx context.Context, r *place.Config, name string, token trust.Token, o addOptions) error {
	var errs []error
	for _, addr := range token.Addresses {
		err := a.addRemote(ctx, r, name, addr, o)
		if kiln.KindOf(err) != kiln.Network && kiln.KindOf(err) != kiln.Timeout {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a *app) addRemote(ctx context.Context, r *place.Config, name, where string, o addOptions) error {
	addr, err := place.Address(where, *o.protocol)
	if err != nil {
		return err
	}
	if strings.HasPrefix(addr, "http://") && !o.http {
		return kiln.Errorf(kiln.Invalid, "Only https URLs are supported: %s; plain http protects against nothing; "+
			"to use it all the same, give --allow-http", addr)
	}
	c := &place.Remote{Addr: addr, Protocol: *o.protocol, Public: o.public ||
		*o.protocol == kiln.ProtocolStreams, Mirrors: o.mirrors, Proxy: o.proxy, Project: o.project}
	if o.caFile != "" {
		ca, err := os.ReadFile(o.caFile)
		if err != nil {
			return fileError(err)
		}
		c.CA = string(ca)
	}
	if _, err := (trust.Peer{CA: c.CA}).TLS(); err != nil {
		return err
	}
	if o.key != "" {
		key, err := place.PublicKey(o.key)
		if err != nil {
			return err
		}
		c.ImageKey = key.String()
	}
	before, had := r.Remotes[name]
	if had && o.key == "" {
		c.ImageKey = before.ImageKey // it is the same server
	}
	r.Remotes[name] = c
	if err := a.introduce(ctx, r, name, c, o); err != nil {
		r.Unpin(name)
		delete(r.Remotes, name)
		if had {
			r.Remotes[name] = before
		}
		return err
	}
	return r.Save()
}

// introduce makes client and server know each other, as far as they have to.
func (a *app) introduce(ctx context.Context, r *place.Config, name string, c *place.Remote, o addOptions) error {
	if c.Unix() {
		return nil // the file system says who may use it
	}
	if c.Streams() {
		return a.introduceStreams(ctx, r, name, c, o)
	}
	if strings.HasPrefix(c.Addr, "https://") {
		if err := a.pin(ctx, r, name, c, o); err != nil {
			return err
		}
	}
	at, err := a.Connect(name)
	if err != nil {
		return err
	}
	var s api.Server
	if _, err := at.Get(ctx, "/1.0", nil, &s); err != nil {
		return err
	}
	c.Public = c.Public || s.Public
	if s.Auth == "trusted" && orElse(o.token, o.password) != "" {
		a.remark("The server %s trusts this client already; the token or password was not used", name)
	}
	if c.Public {
		return nil
	}
	if s.Auth != "trusted" {
		if err := a.join(ctx, name, at, o); err != nil {
			return err
		}
	}
	return a.onlyProject(ctx, name, at, c)
}

// onlyProject makes the project of a remote the one that the client may use there, if
// that is a single one and the user named none: the default project is none of its.
func (a *app) onlyProject(ctx context.Context, name string, at *client.Client, c *place.Remote) error {
	if c.Project != "" {
		return nil
	}
	list, err := client.List[api.Project](ctx, at, "/1.0/projects", 1)
	if kiln.KindOf(err) == kiln.NotFound {
		return nil // a server without projects
	}
	if err != nil || len(list) != 1 || list[0].Name == project.Default {
		return err
	}
	c.Project = list[0].Name
	a.say("The project of %s is %s, the only one that this client may use", name, c.Project)
	return nil
}

// introduceStreams makes sure that an image server is where the user says, and that its
// certificate is signed by a trusted CA or accepted. What it serves is not read: that
// may be fixed there later.
func (a *app) introduceStreams(ctx context.Context, r *place.Config, name string, c *place.Remote, o addOptions) error {
	https := strings.HasPrefix(c.Addr, "https://")
	if https && o.fingerprint != "" {
		if err := a.pin(ctx, r, name, c, o); err != nil {
			return err
		}
	}
	err := a.Probe(ctx, name)
	if https && o.fingerprint == "" && errors.Is(err, kiln.Denied) {
		if err := a.pin(ctx, r, name, c, o); err != nil {
			return err
		}
		err = a.Probe(ctx, name)
	}
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "the remote was not added: %w", err)
	}
	return nil
}

// protocols are those that a remote can speak; "" is the API.
func protocols() []string {
	return []string{"", kiln.ProtocolKiln, kiln.ProtocolLXD, kiln.ProtocolIncus, kiln.ProtocolStreams}
}

// pin looks at the certificate of a server, and pins it if it isn't signed by a
// trusted CA and the user accepts it. It is kept with the remote.
func (a *app) pin(ctx context.Context, r *place.Config, name string, c *place.Remote, o addOptions) error {
	shown, trusted, err := look(ctx, c)
	if err != nil {
		return err
	}
	switch {
	case o.fingerprint != "":
		if err := expected(c.Addr, shown, o.fingerprint); err != nil {
			return err
		}
	case o.accept && !trusted:
	case trusted:
		r.Pin(name, "")
		return nil
	case o.told() != "":
		if err := expected(c.Addr, shown, o.told()); err != nil {
			return err
		}
	default:
		if err := a.askAbout(trust.Fingerprint(shown)); err != nil {
			return err
		}
	}
	r.Pin(name, trust.PEM(shown))
	return nil
}

// expected says whether a server shows the certificate with the fingerprint that the
// user gave. The error is Denied.
func expected(addr string, shown *x509.Certificate, fingerprint string) error {
	want, fp := plainFingerprint(fingerprint), trust.Fingerprint(shown)
	if want == fp {
		return nil
	}
	return kiln.Errorf(kiln.Denied, "the server at %s shows a certificate with the fingerprint %s, not %s; somebody "+
		"may be intercepting the connection", addr, fp, want)
}

// plainFingerprint is a fingerprint as people write it, in small letters without colons.
func plainFingerprint(s string) string { return strings.ToLower(strings.ReplaceAll(s, ":", "")) }

// checkFingerprint says whether a word can be the fingerprint of a certificate.
func checkFingerprint(s string) error {
	if _, err := kiln.ParseFingerprint(plainFingerprint(s)); err != nil {
		return usageError{fmt.Errorf("--fingerprint %q is not the SHA-256 of a certificate: 64 hexadecimal digits, with "+
			"or without colons", s)}
	}
	return nil
}

// look asks a server for its certificate, and whether a trusted CA signed it.
func look(ctx context.Context, c *place.Remote) (shown *x509.Certificate, trusted bool, err error) {
	u, err := url.Parse(c.Addr)
	if err != nil {
		return nil, false, err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}} // to look, not to talk
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, false, kiln.Errorf(kiln.Network, "Failed to connect to %s: %w", c.Addr, err)
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	config, err := trust.Peer{CA: c.CA}.TLS()
	if err != nil {
		return nil, false, err
	}
	between := x509.NewCertPool()
	for _, i := range chain[1:] {
		between.AddCert(i)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{DNSName: u.Hostname(), Roots: config.RootCAs, Intermediates: between})
	return chain[0], err == nil, nil
}

// askAbout asks the user about a certificate: yes, no, or the fingerprint itself.
func (a *app) askAbout(fp string) error {
	fmt.Fprintf(a.Err, "Certificate fingerprint: %s\nok (y/n/[fingerprint])? ", fp)
	answer, err := a.readLine()
	a.endPrompt()
	if errors.Is(err, interruptedPrompt) {
		return err
	}
	if err != nil && answer == "" {
		return kiln.Errorf(kiln.Denied, "the certificate of the server is not signed by a trusted CA; if its "+
			"fingerprint is right, give --fingerprint %s", fp)
	}
	switch answer = strings.ToLower(answer); {
	case answer == "y", answer == "yes", len(answer) >= 12 && strings.HasPrefix(fp, answer):
		return nil
	}
	return kiln.Errorf(kiln.Denied, "the certificate of the server was not accepted")
}

// confirm asks whether to do something; no answer is none. The error is readLine's.
func (a *app) confirm(what string) (yes bool, err error) {
	if a.stopped() {
		return false, interruptedPrompt // several questions end with the first
	}
	fmt.Fprintf(a.Err, "%s (yes/no)? ", printable(what))
	answer, err := a.readLine()
	a.endPrompt()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"), err
}

// endPrompt ends the line of a question whose answer wasn't typed.
func (a *app) endPrompt() {
	if !terminal(a.In) && !a.stopped() {
		fmt.Fprintln(a.Err)
	}
}

// stopped reports whether the user pressed ctrl-c.
func (a *app) stopped() bool {
	select {
	case <-a.interrupted:
		return true
	default:
		return false
	}
}

// readLine reads one line of what the user types. The error is interruptedPrompt when
// that is ctrl-c: nothing is read after it, though the read itself stays until the end
// of the program.
func (a *app) readLine() (string, error) {
	if a.lines == nil {
		a.lines = bufio.NewReader(a.In)
	}
	type answer struct {
		line string
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		line, err := a.lines.ReadString('\n')
		typed <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case <-a.interrupted:
		fmt.Fprintln(a.Err)
		return "", interruptedPrompt
	case got := <-typed:
		return got.line, got.err
	}
}

// join has a server trust the client, by a token or its password.
func (a *app) join(ctx context.Context, name string, at *client.Client, o addOptions) error {
	word := orElse(o.token, o.password)
	if word == "" {
		fmt.Fprintf(a.Err, "Trust token or password for %s: ", name)
		var err error
		word, err = a.readLine()
		a.endPrompt()
		if errors.Is(err, interruptedPrompt) {
			return err
		}
		if err != nil && word == "" {
			return kiln.Errorf(kiln.Denied, "the server %q doesn't know this client; get a token there with \"kiln config "+
				"trust add --name <client>\" and give it with --token, or add the server with --public for its public images", name)
		}
	}
	post := api.CertificatesPost{CertificatePut: api.CertificatePut{Type: "client"}, Password: word, TrustToken: word}
	if _, err := trust.ParseToken(word); err != nil {
		post.TrustToken = "" // it is a password, which no token server needs to see
	}
	if err := at.Change(ctx, http.MethodPost, "/1.0/certificates", post, ""); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "ask %s to trust this client: %w", name, err)
	}
	var s api.Server
	if _, err := at.Get(ctx, "/1.0", nil, &s); err != nil {
		return err
	}
	if s.Auth != "trusted" {
		return kiln.Errorf(kiln.Denied, "the server %q took the certificate, but it may not use the API: the token is "+
			"probably one for reading metrics, of which no remote can be made. Remove the certificate there (kiln config "+
			"trust remove <fingerprint>), and get another token: kiln config trust add --name <client>", name)
	}
	a.say("Client certificate now trusted by server: %s", name)
	return nil
}
