package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/signing"
)

// A server that mirrors images whose key is pinned passes on what their owner says of them: the
// keys file and the signed index, as the origin has them. So whoever has pinned the key takes
// images from the mirror as from the origin, and neither can go back to older ones.

// passedOnFile has what is passed on, by mirror.
const passedOnFile = "passed-on.json"

// maxPassedOn bounds it, in bytes: a few indexes of the largest size, as base64.
const maxPassedOn = 4 * signing.MaxIndex

// passedOn is what the owner of a mirror's images says.
type passedOn struct {
	Root      signing.Key       `json:"root"` // that counts
	Documents signing.Documents `json:"documents"`
}

// loadPassedOn reads what is passed on. What is damaged comes with the next run of the mirror.
func (d *Daemon) loadPassedOn() {
	all := map[string]passedOn{}
	b, err := disk.ReadSealed(filepath.Join(d.cfg.Dir, passedOnFile), maxPassedOn)
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.cfg.Log.Warn("the keys and indexes of mirrors can't be read: they are passed on again after the next run", "err",
				err)
		}
		all = map[string]passedOn{}
	}
	d.published.passed = all
}

// passOn passes on what the owner of a mirror's images says now. The errors are those of
// remote.Opener.Authority.
func (d *Daemon) passOn(ctx context.Context, m Mirror) error {
	if m.Remote.ImageKey == "" || !m.Public {
		return nil
	}
	by, err := d.remotes.Authority(ctx, m.Remote, remote.Access{})
	if err != nil {
		return d.refused(ctx, m.Remote, "", err)
	}
	if by.Said.IsZero() {
		return d.passNothingOn(m.Name)
	}
	return d.changePassedOn(func(all map[string]passedOn) bool {
		next := passedOn{by.Root(), by.Said}
		if has, ok := all[m.Name]; ok && has.equal(next) {
			return false
		}
		all[m.Name] = next
		return true
	})
}

// passNothingOn forgets what is passed on for a mirror.
func (d *Daemon) passNothingOn(name string) error {
	return d.changePassedOn(func(all map[string]passedOn) bool {
		_, has := all[name]
		delete(all, name)
		return has
	})
}

func (p passedOn) equal(q passedOn) bool {
	a, b := p.Documents, q.Documents
	return p.Root == q.Root && bytes.Equal(a.Keys, b.Keys) && bytes.Equal(a.KeysSignature, b.KeysSignature) &&
		bytes.Equal(a.Index, b.Index) && bytes.Equal(a.IndexSignature, b.IndexSignature)
}

// changePassedOn has f change what is passed on, and keeps it if f reports that it did.
func (d *Daemon) changePassedOn(f func(map[string]passedOn) bool) error {
	d.published.mu.Lock()
	defer d.published.mu.Unlock()
	all := map[string]passedOn{}
	for name, p := range d.published.passed {
		all[name] = p
	}
	if !f(all) {
		return nil
	}
	b, err := json.Marshal(all)
	if err == nil && len(b) > maxPassedOn {
		err = kiln.Errorf(kiln.TooLarge, "the keys files and indexes of the mirrors have more than %s together; they aren't "+
			"passed on", kiln.FormatSize(maxPassedOn))
	}
	if err == nil {
		err = disk.WriteSealed(filepath.Join(d.cfg.Dir, passedOnFile), 0o600, b)
	}
	if err != nil {
		return err
	}
	d.published.passed = all
	return nil
}

// passes gives what is passed on: nothing where this server publishes something of its own, or
// mirrors images of several owners, since there is one place for it. Of two mirrors of one owner
// the newer keys file and index count.
func (p *published) passes() signing.Documents {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out signing.Documents
	if p.key != nil || p.keys != (ImageKeys{}) || len(p.passed) == 0 {
		return out
	}
	var list []passedOn
	for _, one := range p.passed {
		list = append(list, one)
	}
	for _, one := range list[1:] {
		if one.Root != list[0].Root {
			return out
		}
	}
	newest := slices.MaxFunc(list, func(a, b passedOn) int { return signing.CompareAge(a.Documents, b.Documents) })
	return newest.Documents
}
