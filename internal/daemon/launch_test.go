package daemon

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestPlan completes what is said by what the image says, in its order.
func TestPlan(t *testing.T) {
	img := kiln.Image{Fingerprint: kiln.Fingerprint{1}, Architecture: HostArch(),
		Properties: map[string]string{"os": "a", "release": "1"}, Profiles: []string{"image"}}
	for what, c := range map[string]struct {
		spec     CreateSpec
		img      kiln.Image
		profiles string
		os       string
	}{
		"image":        {CreateSpec{}, img, "image", "a"},
		"own profiles": {CreateSpec{Config: instance.Config{Profiles: []string{"mine"}}}, img, "mine", "a"},
		"no profiles":  {CreateSpec{Config: instance.Config{Profiles: []string{}}}, img, "", "a"},
		"own option": {CreateSpec{Config: instance.Config{Options: map[string]string{"image.os": "b"}}}, img, "image",
			"b"},
		"nothing": {CreateSpec{Architecture: HostArch()}, kiln.Image{}, "default", ""},
	} {
		n, err := plan(c.spec, c.img)
		got := ""
		for _, p := range n.Profiles {
			got += p
		}
		if err != nil || got != c.profiles || n.Options["image.os"] != c.os || n.Base != c.img.Fingerprint ||
			n.Architecture != HostArch() {
			t.Errorf("%s: %+v, %v", what, n, err)
		}
	}
	img.Architecture = "s390x"
	if _, err := plan(CreateSpec{}, img); !errors.Is(err, kiln.Unsupported) {
		t.Errorf("another architecture: %v", err)
	}
}

// TestManyCreations has a name made up for each of them, and one name that they all
// want, which one gets.
func TestManyCreations(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	const many = 100
	errs := make(chan error, 2*many)
	var wg sync.WaitGroup
	for range many {
		for _, name := range []string{"", "wanted"} {
			wg.Go(func() {
				o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "image", Alias: "bb"}})
				if err == nil {
					err = o.Wait(t.Context()).Err
				}
				errs <- err
			})
		}
	}
	wg.Wait()
	close(errs)
	refused := 0
	for err := range errs {
		switch {
		case errors.Is(err, kiln.Conflict):
			refused++
		case err != nil:
			t.Error(err)
		}
	}
	list, err := d.Instances(t.Context())
	if refused != many-1 || len(list) != many+1 || err != nil {
		t.Errorf("%d refused, %d instances, %v", refused, len(list), err)
	}
	volumes, err := d.pool.List()
	if len(volumes) != len(list) || err != nil {
		t.Errorf("%d volumes of %d instances, %v", len(volumes), len(list), err)
	}
}

// TestFailedCreation leaves nothing, and its name to others, wherever it fails.
func TestFailedCreation(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	bb := Source{Type: "image", Alias: "bb"}
	away := Source{Type: "image", Alias: "x", Remote: kiln.Remote{Protocol: kiln.ProtocolLXD, Server: "https://127.0.0.1:1"}}
	for what, c := range map[string]struct {
		spec CreateSpec
		kind kiln.Kind
	}{
		"no image":    {CreateSpec{Source: Source{Type: "image", Alias: "none"}}, kiln.NotFound},
		"no source":   {CreateSpec{}, kiln.Invalid},
		"odd source":  {CreateSpec{Source: Source{Type: "migration"}}, kiln.Invalid},
		"no instance": {CreateSpec{Source: Source{Type: "copy", Instance: "none"}}, kiln.NotFound},
		"bad profile": {CreateSpec{Source: bb, Config: instance.Config{Profiles: []string{"none"}}}, kiln.NotFound},
		"bad option": {CreateSpec{Source: bb, Config: instance.Config{Options: map[string]string{"nonsense": "1"}}},
			kiln.Invalid},
		"bad architecture": {CreateSpec{Source: bb, Architecture: "pdp11"}, kiln.Invalid},
		"a machine":        {CreateSpec{Source: bb, Type: "virtual-machine"}, kiln.Unsupported},
		"server away":      {CreateSpec{Source: away}, kiln.Network},
	} {
		c.spec.Name = "c1"
		o, err := d.CreateInstance(t.Context(), c.spec)
		if err == nil {
			err = o.Wait(t.Context()).Err
		}
		if kiln.KindOf(err) != c.kind {
			t.Errorf("%s: %v, want %s", what, err, c.kind)
		}
	}
	if volumes, err := d.pool.List(); len(volumes) != 0 || err != nil {
		t.Errorf("left: %v, %v", volumes, err)
	}
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: bb})
	wait(t, o, err)
}

// TestUnreadUserData: whoever gives an instance something for cloud-init is told when its
// image has no template that reads it.
func TestUnreadUserData(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("plain")}, formattest.Unified(t)), nil)
	const metadata = "architecture: amd64\ncreation_date: 1\ntemplates:\n" +
		"  /var/lib/cloud/seed/nocloud-net/user-data: {when: [create], template: u.tpl}\n"
	cloud := formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: metadata},
		formattest.File{Name: "templates/u.tpl", Body: `{{ config_get("user.user-data", "") }}`},
		formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755})
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("cloud")}, cloud), nil)
	for _, c := range []struct{ image, key, warning string }{
		{"plain", "user.user-data", "reads user.user-data"}, {"cloud", "user.user-data", ""},
		{"cloud", "cloud-init.vendor-data", "reads cloud-init.vendor-data"}, {"plain", "user.name", ""},
	} {
		o, err := d.CreateInstance(t.Context(), CreateSpec{Source: Source{Type: "image", Alias: c.image},
			Config: instance.Config{Options: map[string]string{c.key: "x"}}})
		text, _ := wait(t, o, err).Metadata["warning"].(string)
		if (text == "") != (c.warning == "") || !strings.Contains(text, c.warning) {
			t.Errorf("%s of %s: %q", c.key, c.image, text)
		}
	}
}

// TestNewestStands asks for an image by its properties, of which an alias was rolled back
// from the one that would be given else.
func TestNewestStands(t *testing.T) {
	d := fresh(t)
	properties := map[string]string{"flavour": "x"}
	for _, seed := range []string{"bad", "good"} { // of the same day: the first of them is given
		wait(t, importFiles(t, d, ImportSpec{Aliases: aliases(seed), Properties: properties}, formattest.Tiny(t, seed)), nil)
	}
	bad, err := d.Images.Find(t.Context(), "bad")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.DeleteAlias(t.Context(), "bad"), d.UpdateAlias(t.Context(), "good", func(a *kiln.Alias) error {
		a.Target = bad.Fingerprint
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	if img, err := d.newestWith(t.Context(), properties, bad.Architecture); err != nil ||
		img.Fingerprint != bad.Fingerprint {
		t.Fatalf("before: %s, %v", img.Fingerprint.Short(), err)
	}
	_, good, err := d.RollBackAlias(t.Context(), "good", 1)
	if err != nil {
		t.Fatal(err)
	}
	if img, err := d.newestWith(t.Context(), properties, bad.Architecture); err != nil ||
		img.Fingerprint != good.Fingerprint {
		t.Errorf("after: %s, want %s, %v", img.Fingerprint.Short(), good.Fingerprint.Short(), err)
	}
}
