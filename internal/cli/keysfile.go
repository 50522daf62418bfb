package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/signing"
)

// aKeysFile is a keys file on this host, with its signature beside it.
type aKeysFile struct {
	path                string
	document, signature []byte
	signing.KeysFile
}

// readKeysFile reads a keys file and verifies that its root signed it. Errors: NotFound, Integrity.
func readKeysFile(path string) (f aKeysFile, err error) {
	f.path = path
	if f.document, err = readSigned(path, signing.MaxKeys); err != nil {
		return f, err
	}
	if f.signature, err = readSigned(path+signing.SignatureSuffix, signing.MaxDocumentSignature); err != nil {
		return f, err
	}
	if f.KeysFile, err = signing.VerifyKeys(f.document, f.signature); err != nil {
		err = kiln.Errorf(kiln.KindOf(err), "%s: %w", path, err)
	}
	return f, err
}

// readSigned reads a file that isn't large. Errors: NotFound, Invalid.
func readSigned(path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.NotFound, "no file %q", path)
	}
	if err == nil && fi.Size() > limit {
		return nil, kiln.Errorf(kiln.Invalid, "%s is larger than %s", path, kiln.FormatSize(limit))
	}
	if err != nil {
		return nil, err
	}
	return disk.ReadFile(path)
}

// staleFlag lets a command take what the owner of a pinned key signed though it has expired.
func (a *app) staleFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.AcceptExpired, "stale", false, "accept keys and an index of a pinned remote that have expired, "+
		"this once")
}

// signKeysFile writes a keys file, the next version of it.
func (a *app) signKeysFile(path string, by *signer, f signing.KeysFile, life string) error {
	now := time.Now()
	f.Version, f.Created = signing.NextVersion(f.Version, now), now
	var err error
	if f.Expires, err = kiln.ParseExpiry(life, now); err != nil {
		return usageError{fmt.Errorf("--expires: %w", err)}
	}
	document, signature, err := signing.SignKeys(by.key, f)
	if err != nil {
		return kiln.Errorf(kiln.Invalid, "%w", err)
	}
	// Who reads them meanwhile reads them again.
	for _, w := range []struct {
		path string
		b    []byte
	}{{path, document}, {path + signing.SignatureSuffix, signature}} {
		if err := disk.WriteBytes(w.path, 0o644, w.b); err != nil {
			return fileError(err)
		}
	}
	a.say("%s: version %d, signed with the root key %s, good until %s", path, f.Version, by.name, minute(f.Expires))
	return nil
}

// keysLife is how long a keys file is good, unless somebody says so.
const keysLife = "1y"

func lifeFlag(c *cobra.Command) *string {
	return c.Flags().String("expires", keysLife, "how long it is good, such as 90d; sign it again before that")
}

func (a *app) keySignCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "sign <keys-file>", Short: "Sign a file that says with which keys images are signed", Args: cobra.ExactArgs(1),
		Long: "Make a keys file, or a newer version of it: it says with which keys images and indexes are signed, and is " +
			"signed with the root key, whose public part others pin (kiln remote add --key). So other keys can come and " +
			"go, and the root key stays offline. What isn't named stays as it is in the file. A key is the name of one of " +
			"this client, a public key (RW…), or a file with one. Publish the file with: kiln key serve, or beside the " +
			"index of an image server, as " + signing.KeysPath + ". Once an index key is named, whoever has pinned the " +
			"root takes images from servers with a signed index only.",
	}
	root := c.Flags().String("root", "", "name of the root key (default: the one that signed the file, or \"default\", "+
		"or the only one)")
	images := c.Flags().StringArray("image-key", nil, "key that signs images, as the root key does (repeatable)")
	indexes := c.Flags().StringArray("index-key", nil, "key that signs the index (repeatable)")
	revoked := c.Flags().StringArray("revoke", nil, "key whose signatures count no more (repeatable)")
	removed := c.Flags().StringArray("remove", nil, "key that the file isn't to name any more (repeatable)")
	life := lifeFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		f, err := readKeysFile(args[0])
		if errors.Is(err, kiln.NotFound) && len(f.document) == 0 {
			err = nil
		}
		if err != nil {
			return err
		}
		name := *root
		if name == "" && !f.Root.IsZero() {
			if name, err = a.keyNamed(f.Root); err != nil {
				return err
			}
		}
		by, err := a.signer(name)
		if err != nil {
			return err
		}
		if !f.Root.IsZero() && by.key.Key() != f.Root {
			return kiln.Errorf(kiln.Conflict, "the root key of %s is %s, and not %s; to have another one follow it: kiln "+
				"key rotate", args[0], f.Root.ID(), by.key.Key().ID())
		}
		file := f.KeysFile
		gone, err := a.publicKeys(*removed)
		if err != nil {
			return err
		}
		for _, change := range []struct {
			words []string
			to    *[]signing.Key
		}{{*images, &file.ImageKeys}, {*indexes, &file.IndexKeys}, {*revoked, &file.Revoked}} {
			keys, err := a.publicKeys(change.words)
			if err != nil {
				return err
			}
			*change.to = append(without(*change.to, gone), keys...)
		}
		file.ImageKeys, file.IndexKeys = without(file.ImageKeys, file.Revoked), without(file.IndexKeys, file.Revoked)
		return a.signKeysFile(args[0], by, file, *life)
	}
	return c
}

// without gives the keys of a list that aren't in another.
func without(list, gone []signing.Key) []signing.Key {
	return slices.DeleteFunc(slices.Clone(list), func(k signing.Key) bool { return slices.Contains(gone, k) })
}

// publicKeys reads what a user says of public keys: names of the client's, or what
// place.PublicKey reads.
func (a *app) publicKeys(words []string) ([]signing.Key, error) {
	keys, err := a.keys()
	if err != nil {
		return nil, err
	}
	var list []signing.Key
	for _, w := range words {
		named, err := keys.Find(w)
		if err == nil {
			list = append(list, named.Key)
			continue
		}
		k, kerr := place.PublicKey(w)
		if kerr != nil {
			return nil, errors.Join(err, kerr)
		}
		list = append(list, k)
	}
	return list, nil
}

// keyNamed gives the name of a key with which this client can sign. The error is NotFound.
func (a *app) keyNamed(k signing.Key) (string, error) {
	keys, err := a.keys()
	if err != nil {
		return "", err
	}
	list, err := keys.List()
	for _, n := range list {
		if n.Key == k && n.Secret {
			return n.Name, nil
		}
	}
	return "", errors.Join(kiln.Errorf(kiln.NotFound, "the secret part of the key %s isn't here; bring it: kiln key "+
		"import", k.ID()), err)
}

func (a *app) keyRotateCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate <keys-file> <new-key>", Short: "Have another root key follow the one of a keys file",
		Args: cobra.ExactArgs(2),
		Long: "Have another root key follow the one that signed a keys file: the old one signs that the new one follows, " +
			"and the new one the file. Whoever has pinned the old root goes on by the new one, and those who pin from now " +
			"on, pin that. Images that the old root key itself signed count no more, unless it is named as an image key " +
			"first: kiln key sign --image-key.",
	}
	life := lifeFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		f, err := readKeysFile(args[0])
		if err != nil {
			return err
		}
		old, err := a.keyNamed(f.Root)
		if err != nil {
			return err
		}
		from, err := a.signer(old)
		if err != nil {
			return err
		}
		to, err := a.signer(args[1])
		if err != nil {
			return err
		}
		next, err := f.Rotate(from.key, to.key.Key(), time.Now())
		if err != nil {
			return err
		}
		return a.signKeysFile(args[0], to, next, *life)
	}
	return c
}

func (a *app) keyServeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "serve [<remote>:] <keys-file>|none", Short: "Have a server publish a keys file", Args: cobra.RangeArgs(1, 2),
		Long: "Have a server publish a keys file (kiln key sign), for everybody, at /" + signing.KeysPath + ". The " +
			"server needs no secret for that. none has it publish none any more: who has seen one goes on by that until it " +
			"expires.",
		RunE: func(c *cobra.Command, args []string) error {
			at, args, err := a.Server(args)
			if err != nil {
				return err
			}
			if len(args) != 1 {
				return usageError{fmt.Errorf("missing argument: <keys-file>; usage: %s", c.UseLine())}
			}
			if args[0] == "none" {
				return at.Change(c.Context(), http.MethodDelete, "/1.0/kiln/image-keys", nil, "")
			}
			f, err := readKeysFile(args[0])
			if err != nil {
				return err
			}
			if err := a.canServeKeys(c.Context(), at); err != nil {
				return err
			}
			if err := at.Change(c.Context(), http.MethodPut, "/1.0/kiln/image-keys", api.ImageKeys{Keys: string(f.document),
				Signature: string(f.signature)}, ""); err != nil {
				return err
			}
			a.say("%s serves the keys file, version %d, of the root key %s; who pins it: kiln remote add <name> <URL> --key %s",
				strings.TrimSuffix(at.Remote, ":"), f.Version, f.Root.ID(), f.Root)
			return a.warnIndexKey(c.Context(), at, f)
		}}
}

// canServeKeys says whether a server knows keys files. The error is Unsupported.
func (a *app) canServeKeys(ctx context.Context, at place.Place) error {
	var server api.Server
	if _, err := at.Get(ctx, "/1.0", nil, &server); err != nil {
		return err
	}
	if slices.Contains(server.APIExtensions, "kiln_image_keys") {
		return nil
	}
	return kiln.Errorf(kiln.Unsupported, "the server %q publishes no keys files; put the file on its web server, as %s",
		at.Remote, signing.KeysPath)
}

func (a *app) keyLendCmd() *cobra.Command {
	var pinned bool
	c := &cobra.Command{
		Use: "lend [<remote>:] <key-name>|none", Short: "Have a server sign the index of its public images with a key",
		Args: cobra.RangeArgs(1, 2),
		Long: "Have a server sign the index of its public images, at each change of them, with a secret key that it gets " +
			"and tells nobody again. Who has pinned the root key takes by a name what the newest index says it means, so " +
			"that nobody can go back to an older image. Lend a key that signs nothing else: name it in a keys file (kiln " +
			"key sign --index-key), and have that be served first (kiln key serve). The root key itself isn't taken: who " +
			"gets into the server could sign any image with it. Once there was a signed index, those " +
			"who have seen it take nothing from a server without one. none has the server forget the key.",
		RunE: func(c *cobra.Command, args []string) error {
			at, args, err := a.Server(args)
			if err != nil {
				return err
			}
			if len(args) != 1 {
				return usageError{fmt.Errorf("missing argument: <key-name>; usage: %s", c.UseLine())}
			}
			if err := a.canServeKeys(c.Context(), at); err != nil {
				return err
			}
			if args[0] == "none" {
				return at.Change(c.Context(), http.MethodDelete, "/1.0/kiln/index-key", nil, "")
			}
			by, err := a.signer(args[0])
			if err != nil {
				return err
			}
			file, err := by.key.File("")
			if err != nil {
				return err
			}
			if err := at.Change(c.Context(), http.MethodPut, "/1.0/kiln/index-key", api.IndexKeyPut{Secret: string(file),
				Pinned: pinned}, ""); err != nil {
				return err
			}
			a.say("%s signs the index of its public images with the key %s", strings.TrimSuffix(at.Remote, ":"), by.name)
			return nil
		}}
	c.Flags().BoolVar(&pinned, "pinned", false, "lend a key that others have pinned, such as the root key, all the same")
	return c
}

// warnIndexKey says so when a server signs its index with a key that a keys file doesn't name.
func (a *app) warnIndexKey(ctx context.Context, at place.Place, f aKeysFile) error {
	var lent api.IndexKey
	_, err := at.Get(ctx, "/1.0/kiln/index-key", nil, &lent)
	if errors.Is(err, kiln.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	key, err := signing.ParseKey(lent.Public)
	if err != nil {
		return err
	}
	if _, err := signing.IndexOrigin(f.document, f.signature, key); err != nil {
		a.warn(fmt.Sprintf("the server has a key to sign its index with, and signs none any more: %v; give it another "+
			"one: kiln key lend", err))
	}
	return nil
}
