package daemon

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/trust"
)

// TestSecretsOpenOneImage has two private images: the secret of one opens neither the
// other, nor anything in the other direction.
func TestSecretsOpenOneImage(t *testing.T) {
	d := fresh(t)
	a, b, c := cached(t, d, "a"), cached(t, d, "b"), kiln.Fingerprint{3}
	o, err := d.ShareImage(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	pull := o.Snapshot().Metadata["secret"].(string)
	if o, err = d.ExpectImage(t.Context(), ImportSpec{Fingerprint: c}); err != nil {
		t.Fatal(err)
	}
	push := o.Snapshot().Metadata["secret"].(string)
	for _, x := range []struct {
		secret         string
		fp             kiln.Fingerprint
		shared, awaits bool
	}{
		{pull, a, true, false}, {pull, b, false, false}, {pull, c, false, false}, {pull, kiln.Fingerprint{}, false, false},
		{push, c, false, true}, {push, a, false, false}, {push, b, false, false}, {push, kiln.Fingerprint{}, false, false},
		{"", a, false, false}, {"", c, false, false},
	} {
		if _, got := d.Shared(t.Context(), x.secret, x.fp); got != x.shared {
			t.Errorf("%.4q opens %s: %v", x.secret, x.fp.Short(), got)
		}
		_, _, err := d.Expected(t.Context(), x.secret, x.fp)
		if (err == nil) != x.awaits || err != nil && !errors.Is(err, kiln.Denied) {
			t.Errorf("%.4q brings %s: %v", x.secret, x.fp.Short(), err)
		}
	}
}

// TestRemovedWhileLoading removes a client while somebody has read the rows, with the
// client, but not made use of them yet: nobody brings the client back by that.
func TestRemovedWhileLoading(t *testing.T) {
	d := fresh(t)
	cert, err := trust.Ensure(t.TempDir(), "client", trust.Client)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.AddClient(t.Context(), cert.Leaf, Client{Name: "c"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Trusted(t.Context(), cert.Leaf); !ok {
		t.Fatal("the client isn't trusted")
	}
	// Who loads now waits for the text of the authority, which comes after the rows.
	loaded, removed := make(chan error, 1), make(chan error, 1)
	begun, text := make(chan bool), make(chan bool)
	go func() {
		loaded <- d.loadClientsOf(t.Context(), func(path string) (*x509.CertPool, error) {
			begun <- true
			<-text
			return readAuthority(path)
		})
	}()
	<-begun
	go func() { removed <- d.RemoveClient(t.Context(), trust.Fingerprint(cert.Leaf)) }()
	select {
	case err := <-removed: // it has overtaken the other
		removed <- err
	case <-time.After(300 * time.Millisecond): // it waits for the other, or will
	}
	text <- true
	if err := errors.Join(<-loaded, <-removed); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Trusted(t.Context(), cert.Leaf); ok {
		t.Error("the client is trusted after it was removed")
	}
}

// TestHostAccessOfProfiles has the profile that an instance had on the other server let it
// reach this host: what counts is which profiles it gets here.
func TestHostAccessOfProfiles(t *testing.T) {
	d := fresh(t)
	if err := d.db.CreateProfile(t.Context(), db.Profile{Name: "host",
		Config: map[string]string{"security.privileged": "true"}}); err != nil {
		t.Fatal(err)
	}
	tr := kiln.Transfer{InstanceState: kiln.InstanceState{Profiles: []string{defaultProfile, "host"}}}
	ordinary := kiln.Transfer{InstanceState: kiln.InstanceState{Profiles: []string{defaultProfile}}}
	ofSnapshot := kiln.Transfer{Snapshots: []kiln.InstanceState{{Name: "s0", Profiles: []string{"host"}}}}
	for what, c := range map[string]struct {
		profiles []string
		access   bool
		transfer kiln.Transfer
		refused  bool
	}{
		"as there":                  {nil, false, tr, true},
		"as there, in a snapshot":   {nil, false, ofSnapshot, true},
		"as there, and wanted":      {nil, true, tr, false},
		"others":                    {[]string{defaultProfile}, false, tr, false},
		"none":                      {[]string{}, false, tr, false},
		"asked for by who copies":   {[]string{"host"}, false, tr, false},
		"with none of those there":  {nil, false, kiln.Transfer{}, false},
		"only the default of there": {nil, false, ordinary, false},
	} {
		spec := CreateSpec{Name: "c", Source: Source{HostAccess: c.access}}
		spec.Profiles = c.profiles
		err := d.checkHostAccess(t.Context(), &arrival{spec: spec, Transfer: c.transfer})
		if c.refused && (!errors.Is(err, kiln.Denied) ||
			!strings.Contains(err.Error(), `profile "host": security.privileged`)) ||
			!c.refused && err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
