package cli

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/trust"
	"github.com/kiln-containers/kiln/internal/whole"
)

// A remoteConfig is a server as the file of remotes has it. The keys are those of
// lxc and incus, and a few more.
type remoteConfig struct {
	Addr     string   `yaml:"addr"`
	AuthType string   `yaml:"auth_type,omitempty"`
	Project  string   `yaml:"project,omitempty"`
	Protocol string   `yaml:"protocol,omitempty"` // "": the API
	Public   bool     `yaml:"public"`
	CA       string   `yaml:"ca,omitempty"` // PEM
	Mirrors  []string `yaml:"mirrors,omitempty"`
	Proxy    string   `yaml:"proxy,omitempty"`
	static   bool
}

// streams reports whether the server only has images.
func (r remoteConfig) streams() bool { return r.Protocol == kiln.ProtocolStreams }

func (r remoteConfig) unix() bool { return strings.HasPrefix(r.Addr, "unix:") }

// remotes is config.yml with what belongs to it: servercerts/ and the client's own
// certificate.
type remotes struct {
	Default string                   `yaml:"default-remote"`
	Remotes map[string]*remoteConfig `yaml:"remotes"`
	Rest    map[string]any           `yaml:",inline"` // what others keep there

	dir string
}

// confDir is where the client's configuration is: $KILN_CONF, or kiln in the
// user's directory for that.
func confDir() (string, error) {
	if d := os.Getenv("KILN_CONF"); d != "" {
		return d, nil
	}
	d, err := os.UserConfigDir()
	if err != nil {
		return "", kiln.Errorf(kiln.Invalid, "%w; say with $KILN_CONF where to keep the remotes", err)
	}
	return filepath.Join(d, "kiln"), nil
}

// servers are the remotes that are always there.
func servers() map[string]*remoteConfig {
	streams := func(addr string) *remoteConfig {
		return &remoteConfig{Addr: addr, Protocol: kiln.ProtocolStreams, Public: true, static: true}
	}
	return map[string]*remoteConfig{
		"local":        {Addr: "unix://", static: true},
		"images":       streams("https://images.linuxcontainers.org"),
		"ubuntu":       streams("https://cloud-images.ubuntu.com/releases"),
		"ubuntu-daily": streams("https://cloud-images.ubuntu.com/daily"),
	}
}

// remotes reads the file of remotes, once.
func (a *app) remotes() (*remotes, error) {
	if a.opened != nil {
		return a.opened, nil
	}
	dir, err := confDir()
	if err != nil {
		return nil, err
	}
	r, err := readRemotes(dir)
	if err != nil {
		return nil, err
	}
	for name, s := range servers() {
		if _, own := r.Remotes[name]; !own {
			r.Remotes[name] = s
		}
	}
	if v := os.Getenv("KILN_REMOTE"); v != "" {
		r.Default = v
	}
	if r.Default == "" || a.forceLocal {
		r.Default = "local"
	}
	a.opened = r
	return r, nil
}

// readRemotes reads the file of some client in a directory.
func readRemotes(dir string) (*remotes, error) {
	r := &remotes{dir: dir}
	b, err := os.ReadFile(filepath.Join(dir, "config.yml"))
	if err == nil {
		err = yaml.Unmarshal(b, r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.Invalid, "read the remotes in %s: %w", filepath.Join(dir, "config.yml"), err)
	}
	if r.Remotes == nil {
		r.Remotes = map[string]*remoteConfig{}
	}
	maps.DeleteFunc(r.Remotes, func(_ string, c *remoteConfig) bool { return c == nil })
	return r, nil
}

// save writes the file of remotes, whole or not at all.
func (r *remotes) save() error {
	out := *r
	out.Remotes = maps.Clone(r.Remotes)
	maps.DeleteFunc(out.Remotes, func(_ string, c *remoteConfig) bool { return c.static })
	b, err := yaml.Marshal(out)
	if err != nil {
		return err
	}
	return whole.WriteBytes(filepath.Join(r.dir, "config.yml"), 0o600, b)
}

// find gives a remote by its name. The error is NotFound.
func (r *remotes) find(name string) (*remoteConfig, error) {
	if c, ok := r.Remotes[name]; ok {
		return c, nil
	}
	return nil, kiln.Errorf(kiln.NotFound, "The remote %q doesn't exist%s", name,
		kiln.DidYouMean(name, slices.Collect(maps.Keys(r.Remotes))))
}

func (r *remotes) certPath(name string) string {
	return filepath.Join(r.dir, "servercerts", name+".crt")
}

// remote is a server as everybody else has to reach it.
func (r *remotes) remote(name string) (kiln.Remote, error) {
	c, err := r.find(name)
	if err != nil {
		return kiln.Remote{}, err
	}
	pin, err := os.ReadFile(r.certPath(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kiln.Remote{}, err
	}
	protocol := c.Protocol
	if protocol == "" {
		protocol = kiln.ProtocolLXD
	}
	return kiln.Remote{Protocol: protocol, Server: strings.TrimSuffix(c.Addr, "/"), Mirrors: c.Mirrors,
		Certificate: string(pin), CA: c.CA, Proxy: c.Proxy}, nil
}

// own is the certificate that the client shows to private servers. It is made when
// it is first needed.
func (r *remotes) own() (*tls.Certificate, error) {
	pair, err := trust.Ensure(r.dir, "client", trust.Client)
	return &pair, err
}

// A place is a thing on a server: what "remote:name" means.
type place struct {
	*client.Client
	remote string
	name   string
}

// split takes a word apart at its remote.
func (r *remotes) split(word string) (remote, name string) {
	remote, name, ok := strings.Cut(word, ":")
	if !ok {
		return r.Default, word
	}
	return remote, name
}

// at finds the server that a word means, and gives the rest of the word. The error
// is NotFound for a remote that isn't there, Unsupported for one that only has
// images.
func (a *app) at(word string) (place, error) {
	r, err := a.remotes()
	if err != nil {
		return place{}, err
	}
	name, rest := r.split(word)
	if name == "" {
		name = r.Default
	}
	c, err := a.connect(name)
	return place{c, name, rest}, err
}

// server finds the server that the first word means, if it ends in a colon, or
// else the default one, and gives the other words.
func (a *app) server(args []string) (place, []string, error) {
	if len(args) > 0 && strings.HasSuffix(args[0], ":") {
		at, err := a.at(args[0])
		return at, args[1:], err
	}
	at, err := a.at("")
	return at, args, err
}

// local gives a client of the daemon on this host.
func (a *app) local() *client.Client {
	return client.Unix(client.Socket()).WithProject(a.project)
}

// connect gives a client of a remote.
func (a *app) connect(name string) (*client.Client, error) {
	r, err := a.remotes()
	if err != nil {
		return nil, err
	}
	c, err := r.find(name)
	switch {
	case err != nil:
		return nil, err
	case c.streams():
		return nil, kiln.Errorf(kiln.Unsupported, "the remote %q is a server of images (simplestreams): its images can be "+
			"listed, shown, exported, copied and launched, nothing else", name)
	case c.unix():
		socket := strings.TrimPrefix(strings.TrimPrefix(c.Addr, "unix:"), "//")
		if socket == "" {
			return a.local(), nil
		}
		return client.Unix(socket).WithProject(a.project), nil
	}
	o, err := a.opener(name)
	if err != nil {
		return nil, err
	}
	where, err := r.remote(name)
	if err != nil {
		return nil, err
	}
	hc, err := o.HTTP(where)
	if err != nil {
		return nil, err
	}
	project := a.project
	if project == "" && c.Project != "default" {
		project = c.Project
	}
	return client.HTTPS(c.Addr, hc).WithProject(project), nil
}

// indexTTL is how long the client uses the index of an image server without asking.
const indexTTL = 5 * time.Minute

// opener gives what opens a remote: with the client's certificate if it is a
// private one.
func (a *app) opener(name string) (*remote.Opener, error) {
	r, err := a.remotes()
	if err != nil {
		return nil, err
	}
	c, err := r.find(name)
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = r.dir
	}
	host, err := kiln.ParseArch(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	o := &remote.Opener{
		Proxy: http.ProxyFromEnvironment, UserAgent: "kiln/" + a.deps.Version, Version: a.deps.Version, Stall: a.deps.Stall,
		Architectures: kiln.RunsOn(host),
		Indexes:       &remote.Indexes{Dir: filepath.Join(cache, "kiln", "indexes"), TTL: indexTTL},
		AllowHTTP:     func() bool { return strings.HasPrefix(c.Addr, "http://") }, // whoever added it said so
	}
	if !c.Public && !c.streams() {
		if o.Own, err = r.own(); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// source gives the images of a remote, whichever protocol it speaks.
func (a *app) source(name string) (kiln.Source, error) {
	r, err := a.remotes()
	if err != nil {
		return nil, err
	}
	c, err := r.find(name)
	if err != nil {
		return nil, err
	}
	if !c.streams() {
		at, err := a.connect(name)
		return at.Images(), err
	}
	o, err := a.opener(name)
	if err != nil {
		return nil, err
	}
	where, err := r.remote(name)
	if err != nil {
		return nil, err
	}
	return o.Open(where, remote.Access{Warn: func(text string) { a.remark("%s", text) }})
}

// remark tells a person something that isn't an answer.
func (a *app) remark(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Err, format+"\n", args...)
	}
}
