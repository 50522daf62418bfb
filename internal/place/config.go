package place

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/trust"
	"github.com/kiln-containers/kiln/internal/yamlerr"
)

// A Remote is a server as the file of remotes has it. The keys are those of lxc and
// incus, and a few more.
type Remote struct {
	Addr     string   `yaml:"addr"`
	AuthType string   `yaml:"auth_type,omitempty"`
	Project  string   `yaml:"project,omitempty"`
	Protocol string   `yaml:"protocol,omitempty"` // "": the API
	Public   bool     `yaml:"public"`
	CA       string   `yaml:"ca,omitempty"` // PEM
	Mirrors  []string `yaml:"mirrors,omitempty"`
	Proxy    string   `yaml:"proxy,omitempty"`
	ImageKey string   `yaml:"image_key,omitempty"` // public key that its images are signed with; "": needn't be
	SignWith string   `yaml:"sign_with,omitempty"` // name of the key that signs what is made there; "": nothing is signed by itself
	Static   bool     `yaml:"-"`                   // always there; in the file only if somebody changed something else of it
}

// Streams reports whether the server only has images.
func (r Remote) Streams() bool { return r.Protocol == kiln.ProtocolStreams }

// Unix reports whether the server is reached by a socket of this host.
func (r Remote) Unix() bool { return strings.HasPrefix(r.Addr, "unix:") }

// A Config is config.yml with what belongs to it: servercerts/ and the client's own
// certificate.
type Config struct {
	Default string             `yaml:"default-remote"` // also from the environment
	Remotes map[string]*Remote `yaml:"remotes"`
	Rest    map[string]any     `yaml:",inline"` // what others keep there

	dir   string
	saved string            // the default remote in the file
	pins  map[string]string // certificates by remote, PEM, that Save writes; "": it removes that one

	acceptExpired bool // see Resolver
}

// Dir is where the client's configuration is: $KILN_CONF, or kiln in the user's
// directory for that.
func Dir() (string, error) {
	if d := os.Getenv("KILN_CONF"); d != "" {
		return d, nil
	}
	d, err := os.UserConfigDir()
	if err != nil {
		return "", kiln.Errorf(kiln.Invalid, "%w; say with $KILN_CONF where to keep the remotes", err)
	}
	return filepath.Join(d, "kiln"), nil
}

// static are the remotes that are always there.
func static() map[string]*Remote {
	streams := func(addr string) *Remote {
		return &Remote{Addr: addr, Protocol: kiln.ProtocolStreams, Public: true, Static: true}
	}
	return map[string]*Remote{
		"local":        {Addr: "unix://", Static: true},
		"images":       streams("https://images.linuxcontainers.org"),
		"ubuntu":       streams("https://cloud-images.ubuntu.com/releases"),
		"ubuntu-daily": streams("https://cloud-images.ubuntu.com/daily"),
	}
}

// maxConfig is the largest config.yml that is read, in bytes.
const maxConfig = 4 << 20

// Read reads the file of remotes in a directory: kiln's, or that of lxc or incus. One
// that isn't there has no remotes.
func Read(dir string) (*Config, error) {
	c := &Config{dir: dir}
	path := filepath.Join(dir, "config.yml")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("it is larger than %s", kiln.FormatSize(maxConfig))
	}
	if err == nil {
		if err = yaml.Unmarshal(b, c); err != nil {
			err = errors.New(yamlerr.Plain(err))
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.Invalid, "read the remotes in %s: %w", path, err)
	}
	if c.Remotes == nil {
		c.Remotes = map[string]*Remote{}
	}
	maps.DeleteFunc(c.Remotes, func(name string, r *Remote) bool { return r == nil || CheckRemoteName(name) != nil })
	return c, nil
}

// Switch makes another remote the default one.
func (c *Config) Switch(name string) { c.Default, c.saved = name, name }

// Pin has a remote show a certificate from now on, in PEM form; "": one that a CA vouches
// for. Save keeps it.
func (c *Config) Pin(name, certificate string) {
	if c.pins == nil {
		c.pins = map[string]string{}
	}
	c.pins[name] = certificate
}

// Unpin takes back what Pin said since the last Save.
func (c *Config) Unpin(name string) { delete(c.pins, name) }

// savePins writes the certificates that remotes must show.
func (c *Config) savePins() error {
	for name, pin := range c.pins {
		var err error
		if pin == "" {
			err = c.Forget(name)
		} else {
			err = disk.WriteBytes(c.CertPath(name), 0o600, []byte(pin))
		}
		if err != nil {
			return err
		}
	}
	c.pins = nil
	return nil
}

// Save writes the certificates that were pinned, and then the file of remotes, each whole or
// not at all.
func (c *Config) Save() error {
	if err := c.savePins(); err != nil {
		return err
	}
	out := *c
	out.Default = c.saved
	if out.Default == "" {
		out.Default = "local"
	}
	out.Remotes = maps.Clone(c.Remotes)
	unchanged := static()
	maps.DeleteFunc(out.Remotes, func(name string, r *Remote) bool {
		return unchanged[name] != nil && reflect.DeepEqual(r, unchanged[name])
	})
	b, err := yaml.Marshal(out)
	if err != nil {
		return err
	}
	return disk.WriteBytes(filepath.Join(c.dir, "config.yml"), 0o600, b)
}

// Find gives a remote by its name. The error is NotFound.
func (c *Config) Find(name string) (*Remote, error) {
	if r, ok := c.Remotes[name]; ok {
		return r, nil
	}
	return nil, Missing("remote", name, c.Names())
}

// Names are the names of all remotes, sorted.
func (c *Config) Names() []string { return slices.Sorted(maps.Keys(c.Remotes)) }

// Path is where a file of the configuration is.
func (c *Config) Path(name string) string { return filepath.Join(c.dir, name) }

// CertPath is where the pinned certificate of a remote is, if it has one.
func (c *Config) CertPath(name string) string {
	return c.Path(filepath.Join("servercerts", name+".crt"))
}

// Forget removes the certificate that is pinned for a remote.
func (c *Config) Forget(name string) error {
	c.Unpin(name)
	err := os.Remove(c.CertPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Rename gives a remote another name. Errors: Conflict, Invalid.
func (c *Config) Rename(from, to string) error {
	if _, there := c.Remotes[to]; there {
		return kiln.Errorf(kiln.Conflict, "The remote %q already exists; give another name, or remove that one first: kiln "+
			"remote remove %[1]s", to)
	}
	if err := CheckRemoteName(to); err != nil {
		return err
	}
	c.Remotes[to] = c.Remotes[from]
	delete(c.Remotes, from)
	if c.saved == from {
		c.Switch(to)
	}
	err := os.Rename(c.CertPath(from), c.CertPath(to))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// Reach is a remote as everybody else has to reach it. The error is NotFound.
func (c *Config) Reach(name string) (kiln.Remote, error) {
	r, err := c.Find(name)
	if err != nil {
		return kiln.Remote{}, err
	}
	pin, err := c.pin(name)
	if err != nil {
		return kiln.Remote{}, err
	}
	protocol := r.Protocol
	if protocol == "" {
		protocol = kiln.ProtocolLXD
	}
	return kiln.Remote{Protocol: protocol, Server: strings.TrimSuffix(r.Addr, "/"), Mirrors: r.Mirrors,
		Certificate: pin, CA: r.CA, Proxy: r.Proxy, ImageKey: r.ImageKey, Stale: c.acceptExpired}, nil
}

// pin gives the certificate that a remote must show; "": any that a CA vouches for.
func (c *Config) pin(name string) (string, error) {
	if pin, ok := c.pins[name]; ok {
		return pin, nil
	}
	pin, err := os.ReadFile(c.CertPath(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return string(pin), nil
}

// ReachURL is what is known of the server of a URL, if that is a remote: the one with
// the same host and port. It is the zero Remote if none is.
func (c *Config) ReachURL(address string) (kiln.Remote, error) {
	want, err := url.Parse(address)
	if err != nil {
		return kiln.Remote{}, kiln.Errorf(kiln.Invalid, "%q is not a URL: %w", address, err)
	}
	for _, name := range c.Names() {
		r := c.Remotes[name]
		if u, err := url.Parse(r.Addr); err == nil && u.Scheme == want.Scheme && hostPort(u) == hostPort(want) {
			return c.Reach(name)
		}
	}
	return kiln.Remote{}, nil
}

// hostPort is where the server of an https URL listens.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// own is the certificate that the client shows to private servers. It is made when
// it is first needed.
func (c *Config) own() (*tls.Certificate, error) {
	pair, err := trust.Ensure(c.dir, "client", trust.Client)
	return &pair, err
}

// CheckRemoteName says whether name may name a remote: it is typed before a colon,
// and names a file. The error is Invalid.
func CheckRemoteName(name string) error {
	if name == "" || strings.ContainsAny(name, ":/\\ \t\n") || strings.HasPrefix(name, ".") ||
		strings.HasPrefix(name, "-") || strings.ContainsFunc(name, unsayable) || len(name) > 200 {
		return kiln.Errorf(kiln.Invalid, "%q can't name a remote: a name isn't empty, doesn't begin with a dot or a "+
			"hyphen, and has no colon, slash, white space or control character", name)
	}
	return nil
}

// unsayable are characters that can't be typed in a name.
func unsayable(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0xfffd }

// Address completes what people write for a server that speaks a protocol. The error
// is Invalid.
func Address(s, protocol string) (string, error) {
	if s == "unix:" || s == "unix://" || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "unix:/") {
		return "unix://" + strings.TrimPrefix(strings.TrimPrefix(s, "unix:"), "//"), nil
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return "", kiln.Errorf(kiln.Invalid, "%q is not the address of a server, such as https://images.example:8443", s)
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return "", kiln.Errorf(kiln.Invalid, "Only https URLs are supported: %s", s)
	}
	if u.Port() == "" && protocol != kiln.ProtocolStreams {
		u.Host = net.JoinHostPort(u.Hostname(), "8443")
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}
