package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/signing"
)

func (a *app) imageSignCmd() *cobra.Command {
	c := &cobra.Command{Use: "sign [<remote>:]<image>", Short: "Sign an image with a key of this client",
		Args: cobra.ExactArgs(1),
		Long: "Sign an image: say that this one, by its fingerprint, is what its aliases mean. Who pins the key (kiln " +
			"remote add --key) gets an image only by a name that it was signed with, so sign it again when it has other " +
			"aliases. A signature that the image has already is replaced."}
	key := c.Flags().String("key", "", "name of the key (default: the one called \"default\", or the only one)")
	aliases := c.Flags().StringArray("alias", nil, "sign the image as this (repeatable; default: all its aliases)")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := a.signer(*key)
		if err != nil {
			return err
		}
		i, err := a.image(c.Context(), args[0])
		if err != nil {
			return err
		}
		return a.sign(c.Context(), i, s, *aliases)
	}
	return c
}

// signFlag adds --sign to a command that makes an image.
func signFlag(c *cobra.Command) {
	c.Flags().String("sign", "", "sign the image, with the key of this name (default: the one called \"default\", or "+
		"the only one); without it, with the one that kiln remote set-signer has said")
	c.Flags().Lookup("sign").NoOptDefVal = place.DefaultKey
}

// A signer signs images.
type signer struct {
	name    string // of the key
	key     signing.Secret
	unasked bool // the remote says so, and not the user now: what others have signed stays as it is
}

// signer opens the key of a name, or the one that is meant without one, and asks for its
// password if it has one.
func (a *app) signer(name string) (*signer, error) {
	keys, err := a.keys()
	if err != nil {
		return nil, err
	}
	if name == "" || name == place.DefaultKey {
		if name, err = keys.Signer(); err != nil {
			return nil, err
		}
	}
	if _, err := keys.Find(name); err != nil {
		return nil, err
	}
	file, err := keys.SecretFile(name)
	if err != nil {
		return nil, err
	}
	key, err := a.unlock(name, file)
	return &signer{name: name, key: key}, err
}

// wantedSigner is signer for --sign, and without that for the key that signs what is made on a
// remote; nil: nothing is to be signed, as --sign= says for once. It is asked before an image
// is made, so that a mistake costs nothing.
func (a *app) wantedSigner(c *cobra.Command, remote string) (*signer, error) {
	flag := c.Flag("sign")
	if name := flag.Value.String(); flag.Changed || name != "" {
		if name == "" {
			return nil, nil
		}
		return a.signer(name)
	}
	r, err := a.Config()
	if err != nil {
		return nil, err
	}
	on, err := r.Find(remote)
	if err != nil || on.SignWith == "" {
		return nil, err
	}
	s, err := a.signer(on.SignWith)
	if err != nil {
		return nil, kiln.Errorf(kiln.KindOf(err), "images of the remote %q are signed by themselves: %w; to leave that out "+
			"once: --sign=; for good: kiln remote set-signer %s none", remote, err, remote)
	}
	s.unasked = true
	return s, nil
}

func (a *app) setSignerCmd() *cobra.Command {
	c := a.remoteChange("set-signer <remote> <key-name>|none", "Set the key that signs what is published or imported", 2,
		func(r *place.Config, args []string) error {
			c := *r.Remotes[args[0]]
			if c.SignWith = ""; args[1] != "none" {
				if _, err := r.Keys().Find(args[1]); err != nil {
					return err
				}
				if _, err := r.Keys().SecretFile(args[1]); err != nil {
					return err
				}
				c.SignWith = args[1]
			}
			r.Remotes[args[0]] = &c
			return nil
		})
	c.Long = "Set the key of this client that signs each image which it publishes or imports on a remote, as with " +
		"--sign. The secret key stays here; other clients of that server sign with their own. An image that is there " +
		"already with a signature by another key keeps that. --sign= makes one without a signature."
	return c
}

// sign signs an image as what it is called, or as some of that.
func (a *app) sign(ctx context.Context, i heldImage, by *signer, aliases []string) error {
	fp, err := kiln.ParseFingerprint(i.Fingerprint)
	if err != nil {
		return kiln.Errorf(kiln.Network, "the server names an image %w", err)
	}
	if len(aliases) == 0 {
		for _, al := range i.Aliases {
			aliases = append(aliases, al.Name)
		}
	}
	sig, err := signing.Sign(by.key, signing.Statement{Fingerprint: fp, Serial: time.Now(), Aliases: aliases})
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "sign image %s: %w", fp.Short(), err)
	}
	if i.Properties == nil {
		i.Properties = map[string]string{}
	}
	i.Properties[kiln.SignatureProperty] = sig.Text()
	if err := i.save(ctx); err != nil {
		return err
	}
	if len(aliases) == 0 {
		a.say("Image %s signed with the key %s, without an alias: who pins the key gets it by its fingerprint only",
			fp.Short(), by.name)
		return nil
	}
	a.say("Image %s signed with the key %s, as: %s", fp.Short(), by.name, strings.Join(sig.Aliases, ", "))
	return nil
}

// signNew signs an image that was just made; by nil doesn't. The error says that it is there.
func (a *app) signNew(ctx context.Context, at place.Place, fp string, by *signer) error {
	if by == nil {
		return nil
	}
	i, err := a.image(ctx, at.At(fp).Word())
	if text := i.Properties[kiln.SignatureProperty]; err == nil && by.unasked && text != "" {
		if s, perr := signing.Parse(text); perr == nil && s.KeyID != by.key.Key().ID() {
			a.say("Image %s keeps its signature by the key %s; to sign it with %s: kiln image sign %[1]s --key %[3]s",
				short(fp), s.KeyID, by.name)
			return nil
		}
	}
	if err == nil {
		err = a.sign(ctx, i, by, nil)
	}
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "the image is there, but isn't signed: %w; when that is mended: kiln image "+
			"sign %s", err, short(fp))
	}
	return nil
}

// signers are the keys that this client knows, by what they call themselves.
type signers map[string][]namedSigner

type namedSigner struct {
	name string
	key  signing.Key
}

// signers gives the user's keys, and those that sign for the owners of the keys that remotes are
// pinned to, as far as that is known.
func (a *app) signers(ctx context.Context) (signers, error) {
	r, err := a.Config()
	if err != nil {
		return nil, err
	}
	list, err := r.Keys().List()
	if err != nil {
		a.warn(err.Error())
	}
	all := signers{}
	for _, n := range list {
		all[n.Key.ID()] = append(all[n.Key.ID()], namedSigner{n.Name, n.Key})
	}
	for _, name := range r.Names() {
		by, err := a.Signers(ctx, name)
		if err != nil {
			a.warn(err.Error())
		}
		if err != nil || by == nil {
			continue
		}
		for _, key := range by.ImageKeys() {
			all[key.ID()] = append(all[key.ID()], namedSigner{name + ":", key})
		}
	}
	return all, nil
}

// A vouching is what comes of looking at the signature of an image.
type vouching struct {
	signing.Signature
	by    string // name of the key; "": nobody knows it here
	wrong error
}

// of looks at the signature that an image has among its properties; nil: it has none.
func (s signers) of(i api.Image) *vouching {
	text := i.Properties[kiln.SignatureProperty]
	if text == "" {
		return nil
	}
	var v vouching
	if v.Signature, v.wrong = signing.Parse(text); v.wrong != nil {
		return &v
	}
	fp, err := kiln.ParseFingerprint(i.Fingerprint)
	if err != nil { // its metadata is made when it is copied
		v.wrong = kiln.Errorf(kiln.Integrity, "the image has no fingerprint yet")
		return &v
	}
	v.wrong = v.Of(fp)
	for _, known := range s[v.KeyID] {
		err := v.Verify(known.key)
		if err == nil && v.wrong == nil {
			v.by = known.name
			return &v
		}
		if v.wrong == nil {
			v.wrong = err
		}
	}
	return &v
}

// pinned says whether an image would be taken from its remote, as it was asked for; "": the remote
// has no key.
func (a *app) pinned(ctx context.Context, word string, i api.Image) string {
	r, err := a.Config()
	if err != nil {
		return ""
	}
	remote, name := r.Split(word)
	if c, err := r.Find(remote); err != nil || c.ImageKey == "" {
		return ""
	}
	img, err := client.Image(i)
	if err == nil {
		err = a.CheckSigned(ctx, img, remote, name)
	}
	if err != nil {
		return fmt.Sprintf("REFUSES it: %v", err)
	}
	return "accepts it as " + name
}

// column tells it in a list.
func (v *vouching) column() string {
	switch {
	case v == nil:
		return ""
	case v.wrong != nil:
		return "BAD"
	case v.by == "":
		return v.KeyID + " (unknown)"
	}
	return v.by
}

// String tells it in a line.
func (v *vouching) String() string {
	as := "no alias"
	if len(v.Aliases) > 0 {
		as = strings.Join(v.Aliases, ", ")
	}
	switch {
	case v.wrong != nil:
		return fmt.Sprintf("BAD: %v", v.wrong)
	case v.by == "":
		return fmt.Sprintf("by the unknown key %s, as %s; to check it, import the public key: kiln key import", v.KeyID, as)
	}
	return fmt.Sprintf("good, by the key %s (%s), as %s, on %s", v.by, v.KeyID, as, minute(v.Serial))
}
