// Package place knows what a word on the command line means: which remote, and which
// image, instance, snapshot or alias there. It reads and writes the file of remotes,
// and opens what it finds. It doesn't know flags, terminals or how anything is shown.
package place

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/signing"
)

// A Place is a thing on a server: what "remote:name" means.
type Place struct {
	*client.Client
	Remote string
	Name   string // "": the server itself
}

// Word is the word that means the place, from wherever it is said.
func (p Place) Word() string { return p.Remote + ":" + p.Name }

// Snapshot takes the name of a snapshot apart; ok is false if it is one of an
// instance.
func (p Place) Snapshot() (instance, snapshot string, ok bool) { return strings.Cut(p.Name, "/") }

// At gives another thing on the same server.
func (p Place) At(name string) Place { return Place{p.Client, p.Remote, name} }

// A Resolver finds out what words mean. Its exported fields are set before it is
// used.
type Resolver struct {
	Project     string            // "": the remote's own
	AllProjects bool              // requests are about all projects, which lists can be
	ForceLocal  bool              // no remote named means the local daemon
	Version     string            // of kiln, for servers that want to know
	Stall       time.Duration     // how long servers may keep it waiting; 0: as long as usual
	Warn        func(text string) // hears that something works, but not as it should
	// Stale lets what image servers have be as it was a few minutes ago. Else they are
	// asked each time whether it changed.
	Stale bool
	// AcceptExpired takes what the owners of pinned keys signed though it has expired.
	AcceptExpired bool
	// Retell says what a server told as it is to be understood here. remote is how the server
	// is named in words, "" if that goes without saying; project likewise. It may be nil.
	Retell func(text, remote, project string) string

	read  *Config // the file of remotes, once it was read
	asked string  // the server that was connected to last
	// vouching has, by remote, what the owner of the key that it is pinned to says
	vouching map[string]*signing.Authority
}

// Config gives the file of remotes, which is read once.
func (r *Resolver) Config() (*Config, error) {
	if r.read != nil {
		return r.read, nil
	}
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	c, err := Read(dir)
	if err != nil {
		return nil, err
	}
	for name, s := range static() {
		own, changed := c.Remotes[name]
		if !changed {
			c.Remotes[name] = s
		} else {
			own.Static = own.Addr == s.Addr && own.Protocol == s.Protocol
		}
	}
	if c.saved = c.Default; c.Default == "" {
		c.Default = "local"
	}
	if v := os.Getenv("KILN_REMOTE"); v != "" {
		c.Default = v
	}
	if r.ForceLocal {
		c.Default = "local"
	}
	c.acceptExpired = r.AcceptExpired
	r.read = c
	return c, nil
}

// Split takes a word apart at its first colon. Without one, and with nothing before
// it, the remote is the default one. A colon after a slash is part of the name, as no
// remote has a slash: "c1/12:30" is a snapshot.
func (c *Config) Split(word string) (remote, name string) {
	remote, name, ok := strings.Cut(word, ":")
	if !ok || strings.Contains(remote, "/") {
		remote, name = "", word
	}
	if remote == "" {
		remote = c.Default
	}
	return remote, name
}

// IsServer reports whether a word means a whole server: "srv:".
func IsServer(word string) bool {
	remote, rest, ok := strings.Cut(word, ":")
	return ok && rest == "" && !strings.Contains(remote, "/")
}

// At finds the server that a word means, and gives the rest of the word. The error
// is NotFound for a remote that isn't there, Unsupported for one that only has
// images.
func (r *Resolver) At(word string) (Place, error) {
	c, err := r.Config()
	if err != nil {
		return Place{}, err
	}
	name, rest := c.Split(word)
	at, err := r.Connect(name)
	return Place{at, name, rest}, err
}

// Server finds the server that the first word means, if it ends in a colon, or else
// the default one, and gives the other words.
func (r *Resolver) Server(words []string) (Place, []string, error) {
	if len(words) > 0 && IsServer(words[0]) {
		at, err := r.At(words[0])
		return at, words[1:], err
	}
	at, err := r.At("")
	return at, words, err
}

// filters takes the words of a list apart: the server, as a word, and what its things have
// to fit. "srv:deb" is "srv:" and "deb", as with lxc; "user.url=http://x" is a filter, as is
// "c1/12:30". The error is Invalid.
func filters(words []string) (server string, rest []string, err error) {
	if len(words) == 0 {
		return "", nil, nil
	}
	remote, filter, ok := strings.Cut(words[0], ":")
	if !ok || strings.ContainsAny(remote, "/=") {
		return "", words, nil
	}
	switch rest = words[1:]; {
	case strings.HasSuffix(filter, ":"):
		return "", nil, kiln.Errorf(kiln.Invalid, "%q names no server; the name of a remote has no colon in it, but one "+
			"after it", words[0])
	case filter != "":
		rest = append([]string{filter}, rest...)
	}
	return remote + ":", rest, nil
}

// Filtered finds the server that a list is of, and gives the filters.
func (r *Resolver) Filtered(words []string) (Place, []string, error) {
	server, rest, err := filters(words)
	if err != nil {
		return Place{}, nil, err
	}
	at, err := r.At(server)
	return at, rest, err
}

// Pair reads the words for an instance and for what it is to become. A word without
// a remote means the default one, the second as well. Without a second word it
// becomes something on its own server that has no name yet.
func (r *Resolver) Pair(words []string) (from, to Place, err error) {
	if from, err = r.At(words[0]); err != nil || len(words) == 1 {
		return from, from.At(""), err
	}
	to, err = r.At(words[1])
	return from, to, err
}

// SameServer reads a second word that is about the server of the first: it may name
// that remote again, and no other. The error is Invalid.
func (p Place) SameServer(word string) (Place, error) {
	remote, name, ok := strings.Cut(word, ":")
	switch {
	case !ok:
		return p.At(word), nil
	case remote == p.Remote:
		return p.At(name), nil
	}
	return p, kiln.Errorf(kiln.Invalid, "%q and %q are on different servers; this works on one at a time", p.Word(), word)
}

// SnapshotOf reads "c1/s0", or "c1" with "s0" in the next word. The error is Invalid
// if that names no snapshot.
func (r *Resolver) SnapshotOf(words []string) (at Place, instance, snap string, err error) {
	if at, err = r.At(words[0]); err != nil {
		return at, "", "", err
	}
	instance, snap, ok := at.Snapshot()
	switch {
	case ok && len(words) == 1 && snap != "":
		return at, instance, snap, nil
	case !ok && len(words) == 2:
		return at, instance, strings.TrimPrefix(words[1], instance+"/"), nil
	}
	return at, "", "", kiln.Errorf(kiln.Invalid, "missing argument: <instance> <snapshot>, or <instance>/<snapshot>")
}

// Local gives a client of the daemon on this host.
func (r *Resolver) Local() *client.Client {
	return r.about(client.Unix(client.Socket()), "local", "")
}

// Connect gives a client of a remote. Nothing is sent yet. Errors: NotFound;
// Unsupported for a remote that only has images.
func (r *Resolver) Connect(name string) (*client.Client, error) {
	config, err := r.Config()
	if err != nil {
		return nil, err
	}
	c, err := config.Find(name)
	switch {
	case err != nil:
		return nil, err
	case c.Streams():
		return nil, kiln.Errorf(kiln.Unsupported, "the remote %q is an image server (simplestreams): its images can be "+
			"listed, shown, exported, copied and launched, nothing else", name)
	case c.Unix():
		socket := strings.TrimPrefix(strings.TrimPrefix(c.Addr, "unix:"), "//")
		if socket == "" {
			return r.about(client.Unix(client.Socket()), name, c.Project), nil
		}
		return r.about(client.Unix(socket), name, c.Project), nil
	}
	o, where, err := r.opener(name)
	if err != nil {
		return nil, err
	}
	hc, err := o.HTTP(where)
	if err != nil {
		return nil, err
	}
	r.patiently(hc)
	r.asked = name
	return r.about(client.HTTPS(c.Addr, hc), name, c.Project), nil
}

// Spelled says how a remote and the project that is asked for have to be named in the next
// command: "" for what goes without saying then.
func (r *Resolver) Spelled(name string) (remote, project string) {
	return r.spelled(name, r.Project)
}

// spelled is Spelled for what is about another project than the one that is asked for.
func (r *Resolver) spelled(name, about string) (remote, project string) {
	usual, own := "local", ""
	if c, err := r.Config(); err == nil {
		usual = cmp.Or(os.Getenv("KILN_REMOTE"), c.saved, usual)
		if found := c.Remotes[name]; found != nil {
			own = found.Project
		}
	}
	if name != usual {
		remote = name
	}
	if about != cmp.Or(os.Getenv("KILN_PROJECT"), own, "default") {
		project = about
	}
	return remote, project
}

// InProject gives a place of another project on the same server. That is the one which commands
// in what the server tells are about.
func (r *Resolver) InProject(p Place, project string) Place {
	p.Client = r.retold(p.WithProject(project), p.Remote, project)
	return p
}

// retold gives a client that has what the server tells be understood here.
func (r *Resolver) retold(c *client.Client, name, about string) *client.Client {
	if r.Retell == nil {
		return c
	}
	return c.WithRetold(func(text string) string {
		remote, project := r.spelled(name, about)
		return r.Retell(text, remote, project)
	})
}

// about has a client's requests be about the project that was asked for, or that of its
// remote. The default one goes without saying.
func (r *Resolver) about(c *client.Client, name, own string) *client.Client {
	c = r.retold(c.WithUserAgent("kiln/"+r.Version), name, r.Project)
	if r.AllProjects {
		return c.AllProjects()
	}
	if project := cmp.Or(r.Project, own); project != "default" {
		return c.WithProject(project)
	}
	return c
}

// Explain says more about an error of a server that only says that somebody may not do
// something: which server, and what helps.
func (r *Resolver) Explain(err error) error {
	if err == nil || err.Error() != "not authorized" || r.asked == "" || r.read == nil {
		return err
	}
	remote, ok := r.read.Remotes[r.asked]
	if !ok {
		return err
	}
	if remote.Public {
		return kiln.Errorf(kiln.Denied, "not authorized: the remote %q was added for its public images only; to use the "+
			"rest, remove it and add it again with a token of \"kiln config trust add\" there", r.asked)
	}
	return kiln.Errorf(kiln.Denied, "not authorized: the server %q doesn't trust this client, or not with this; get a "+
		"token there with \"kiln config trust add --name <client>\", and add the remote again: "+
		"kiln remote add <name> <token>", r.asked)
}

// Source gives the images of a remote, whichever protocol it speaks, signed or not.
func (r *Resolver) Source(name string) (kiln.Source, error) {
	config, err := r.Config()
	if err != nil {
		return nil, err
	}
	c, err := config.Find(name)
	if err != nil {
		return nil, err
	}
	if !c.Streams() {
		at, err := r.Connect(name)
		if err != nil {
			return nil, err
		}
		return at.Images(), nil
	}
	o, where, err := r.opener(name)
	if err != nil {
		return nil, err
	}
	hc, err := o.HTTP(where) // what Open uses, too
	if err != nil {
		return nil, err
	}
	r.patiently(hc)
	where.ImageKey = ""
	return o.Open(where, remote.Access{Warn: r.Warn, Fresh: !r.Stale})
}

// probeTime is how long Probe waits for an answer.
const probeTime = 15 * time.Second

// Probe asks the web server of a remote for an answer, whatever that is. Errors:
// Network, Denied for a certificate that isn't trusted.
func (r *Resolver) Probe(ctx context.Context, name string) error {
	o, where, err := r.opener(name)
	if err != nil {
		return err
	}
	hc, err := o.HTTP(where)
	if err != nil {
		return err
	}
	r.patiently(hc)
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, where.Server+"/", nil)
	if err != nil {
		return kiln.Errorf(kiln.Invalid, "%w", err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		var kind kiln.Kind
		if errors.As(err, &kind) {
			return err
		}
		return kiln.Errorf(kiln.Network, "%w", err)
	}
	return resp.Body.Close()
}

// indexTTL is how long a client that may be out of date uses the index of an image server
// without asking.
const indexTTL = 5 * time.Minute

// opener gives what opens a remote, with the client's certificate if it is a private
// one, and the remote as everybody has to reach it.
func (r *Resolver) opener(name string) (*remote.Opener, kiln.Remote, error) {
	config, err := r.Config()
	if err != nil {
		return nil, kiln.Remote{}, err
	}
	where, err := config.Reach(name)
	if err != nil {
		return nil, where, err
	}
	c := config.Remotes[name]
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = config.dir
	}
	host, err := kiln.ParseArch(runtime.GOARCH)
	if err != nil {
		return nil, where, err
	}
	o := &remote.Opener{
		Proxy: http.ProxyFromEnvironment, UserAgent: "kiln/" + r.Version, Version: r.Version, Stall: r.Stall,
		Architectures: kiln.RunsOn(host), Pins: pins{config.Path("pins.json")},
		Indexes:   &remote.Indexes{Dir: filepath.Join(cache, "kiln", "indexes"), TTL: indexTTL},
		AllowHTTP: func() bool { return strings.HasPrefix(c.Addr, "http://") }, // whoever added it said so
	}
	if !c.Public && !c.Streams() {
		if o.Own, err = config.own(); err != nil {
			return nil, where, err
		}
	}
	return o, where, nil
}

// Missing is the error about a thing that isn't there: what it is, how it was called
// and which name was probably meant. The error is NotFound.
func Missing(noun, name string, known []string) error {
	hint := ""
	if !slices.Contains(known, name) {
		hint = kiln.DidYouMean(name, known)
	}
	if noun == "remote" || hint == "" && !slices.Contains(known, name) {
		verb := noun + " list"
		switch noun {
		case "instance":
			verb = "list"
		case "alias":
			verb = "image alias list"
		case "pool":
			verb = "storage list"
		case "storage volume":
			verb = "storage volume list default"
		}
		hint += "; see: kiln " + verb
	}
	return kiln.Errorf(kiln.NotFound, "no %s %q%s", noun, name, hint)
}
