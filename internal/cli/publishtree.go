package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/simplestreams"
	"github.com/kiln-containers/kiln/internal/web"
)

func (a *app) publishTreeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "publish-tree [<remote>:] <directory>", Short: "Export the public images as static files for a web server",
		Args: cobra.RangeArgs(1, 2),
		Long: "Export the public images as a simplestreams tree that any web server can serve. Files that exist are " +
			"kept, and the index is replaced last, so that clients can read meanwhile. index.html is a page " +
			"for people, unless there is another one. The keys file of the server (kiln " +
			"key serve) is copied. Files of images that are no longer public are removed by the first run at least one hour " +
			"after the index stopped naming them. An image that is damaged is left out.",
	}
	key := c.Flags().String("key", "", "sign the index with the key of this name; it has to be one that the keys file "+
		"there names, if there is one")
	life := c.Flags().String("expires", "30d", "with --key, how long the index is good; publish it again before that")
	revoked := c.Flags().StringArray("revoke", nil, "with --key, fingerprint of an image that nobody is to use any more "+
		"(repeatable)")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, args, err := a.Server(args)
		if err != nil {
			return err
		}
		if len(args) != 1 {
			return usageError{fmt.Errorf("missing argument: <directory>; usage: %s", c.UseLine())}
		}
		if *key == "" && (c.Flags().Changed("expires") || c.Flags().Changed("revoke")) {
			return usageError{errors.New("--expires and --revoke are about a signed index; give --key, too")}
		}
		t := tree{app: a, dir: args[0]}
		if t.index, err = a.newTreeIndex(args[0], *key, *life, *revoked); err != nil {
			return err
		}
		return a.publishTree(c.Context(), at, t)
	}
	return c
}

// A tree is where images are published as files.
type tree struct {
	app   *app
	dir   string
	index *treeIndex // nil: it isn't signed
}

// treeFile is where a file of an image is in a published tree.
func treeFile(img kiln.Image, f kiln.File) string {
	return fmt.Sprintf("images/%s/%s%s", img.Fingerprint, f.Role, f.Ext)
}

func (a *app) publishTree(ctx context.Context, at place.Place, t tree) error {
	dir := t.dir
	all, err := client.List[api.Image](ctx, at.Client, "/1.0/images", 1)
	if err != nil {
		return err
	}
	var images []kiln.Image
	var left []error // about images that are left out
	named := map[string]bool{}
	updated := time.Unix(0, 0)
	for _, w := range all {
		if !w.Public {
			continue
		}
		img, err := a.publishFound(ctx, at, dir, w.Fingerprint)
		if errors.Is(err, kiln.Integrity) {
			left = append(left, a.leftOut(ctx, at, w, err))
			continue
		}
		if err != nil {
			return err
		}
		images = append(images, img)
		named[img.Fingerprint.String()] = true
		if img.UploadedAt.After(updated) {
			updated = img.UploadedAt
		}
	}
	if len(images) == 0 && len(left) > 0 {
		return errors.Join(left...) // the index stays
	}
	if err := publishKeys(ctx, at, dir); err != nil {
		return err
	}
	for _, img := range images {
		err := a.publishBeside(ctx, at, dir, img, images)
		if errors.Is(err, kiln.Integrity) { // the server's files; the tree's are whole, and serve without
			left = append(left, fmt.Errorf("beside image %s: %w", img.Fingerprint.Short(), err))
		} else if err != nil {
			return err
		}
	}
	index, products, err := simplestreams.Write(images, simplestreams.Options{Updated: updated, PathOf: treeFile})
	if err != nil {
		return err
	}
	signed, err := t.signed(images)
	if err != nil {
		return err
	}
	// Who has the old index finds the files it names; who has the new one, too.
	documents := []treeDocument{{simplestreams.ProductsPath, products}, {simplestreams.IndexPath, index}}
	page, err := a.treePage(dir, images)
	if err != nil {
		return err
	}
	for _, f := range append(append(page, documents...), signed...) {
		if err := publishFile(filepath.Join(dir, f.path), f.content); err != nil {
			return err
		}
	}
	a.remark("%d images in %s", len(images), dir)
	return errors.Join(append(left, sweepTree(filepath.Join(dir, "images"), named))...)
}

// pageFile is what web servers show of a directory.
const pageFile = "index.html"

// treePage makes the page that people see of a tree, unless somebody has put another one there.
func (a *app) treePage(dir string, images []kiln.Image) ([]treeDocument, error) {
	f, err := disk.Open(filepath.Join(dir, pageFile))
	if err == nil {
		defer f.Close()
		var head []byte
		if head, err = io.ReadAll(io.LimitReader(f, 4<<10)); err == nil && !bytes.Contains(head, []byte(web.Mark)) {
			a.remark("%s isn't kiln's, and stays as it is", filepath.Join(dir, pageFile))
			return nil, nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var b bytes.Buffer
	err = web.Write(&b, web.Site{Streams: true, PathOf: treeFile}, images)
	return []treeDocument{{pageFile, b.Bytes()}}, err
}

// publishFound finds an image and writes its files.
func (a *app) publishFound(ctx context.Context, at place.Place, dir, fingerprint string) (kiln.Image, error) {
	img, err := at.Images().Find(ctx, fingerprint)
	if err != nil {
		return img, err
	}
	if len(img.Files) == 0 {
		return img, kiln.Errorf(kiln.Unsupported, "the server %q doesn't tell which files its images have; it has to "+
			"be kiln", at.Remote)
	}
	return img, a.publishImage(ctx, at, dir, img)
}

// leftOut says why an image isn't published. The server looks at it, so that it warns of it there.
func (a *app) leftOut(ctx context.Context, at place.Place, img api.Image, why error) error {
	advice := "import or copy it again, or delete it: kiln image delete " + short(img.Fingerprint)
	err := at.Change(ctx, http.MethodPost, imagePath(img)+"/verify", struct{}{}, "")
	switch {
	case err == nil:
		advice = "the server has it whole; try again"
	case errors.Is(err, kiln.Integrity):
		why = err
	}
	return a.typed(at, kiln.Errorf(kiln.Integrity, "image %s is damaged, and left out: %w; %s", short(img.Fingerprint),
		why, advice))
}

// publishKeys puts the keys file of the server there, if it has one. Else the one that is there
// stays: somebody made it.
func publishKeys(ctx context.Context, at place.Place, dir string) error {
	var k api.ImageKeys
	_, err := at.Get(ctx, "/1.0/kiln/image-keys", nil, &k)
	if errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Denied) {
		return nil
	}
	path := filepath.Join(dir, signing.KeysPath)
	return errors.Join(err, publishFile(path, []byte(k.Keys)),
		publishFile(path+signing.SignatureSuffix, []byte(k.Signature)))
}

// publishFile replaces a file that everybody may read, unless it is the same.
func publishFile(path string, b []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return disk.WriteBytes(path, 0o644, b)
}

// publishImage writes the files of an image that aren't there. Their names have the
// fingerprint in them, so that a file of the right size is the right one.
func (a *app) publishImage(ctx context.Context, at place.Place, dir string, img kiln.Image) error {
	final := filepath.Join(dir, "images", img.Fingerprint.String())
	whole := true
	for _, f := range img.Files {
		fi, err := os.Stat(filepath.Join(dir, treeFile(img, f)))
		whole = whole && err == nil && fi.Size() == f.Size
	}
	if whole {
		return os.Chtimes(final, time.Now(), time.Now())
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(final), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone if it has its name
	s, err := at.Images().Open(ctx, img)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, f := range img.Files {
		if _, err := s.Next(); err != nil {
			return err
		}
		if err := writeStream(filepath.Join(temp, filepath.Base(treeFile(img, f))), s); err != nil {
			return err
		}
	}
	if _, err := s.Next(); !errors.Is(err, io.EOF) { // the hash was compared
		return errors.Join(err, kiln.Errorf(kiln.Network, "the server sends more files than the image has"))
	}
	if err := errors.Join(os.Chmod(temp, 0o755), os.RemoveAll(final)); err != nil {
		return err
	}
	a.remark("%s: %s", img.Fingerprint.Short(), kiln.FormatSize(img.Size))
	return os.Rename(temp, final)
}

// leastDelta is the size of a file, in bytes, below which nobody asks for less.
const leastDelta = 1 << 20

// publishBeside writes what makes the files of an image cheaper to have for who has
// another: an index of each, and patches from the versions before that are public.
func (a *app) publishBeside(ctx context.Context, at place.Place, dir string, img kiln.Image, all []kiln.Image) error {
	for _, f := range img.Files {
		if f.Size < leastDelta {
			continue
		}
		base := "/1.0/kiln/images/" + img.Fingerprint.String() + "/files/" + f.Hash.String()
		if err := fetchBeside(ctx, at, base+"/index",
			filepath.Join(dir, simplestreams.Beside(treeFile(img, f), "index", kiln.Fingerprint{}))); err != nil {
			return err
		}
		for _, old := range all {
			for _, o := range old.Files {
				if old.ReplacedBy != img.Fingerprint || o.Role != f.Role || o.Hash == f.Hash {
					continue
				}
				err := fetchBeside(ctx, at, base+"/patch/"+o.Hash.String(), filepath.Join(dir,
					simplestreams.Beside(treeFile(img, f), "patch", o.Hash)))
				if err != nil && !errors.Is(err, kiln.NotFound) { // some formats have none
					return err
				}
			}
		}
	}
	return nil
}

// fetchBeside writes a file of the server, unless it is there.
func fetchBeside(ctx context.Context, at place.Place, from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	return disk.Write(to, 0o644, func(w io.Writer) error {
		return at.Download(ctx, from, func(r io.Reader) error { _, err := io.Copy(w, r); return err })
	})
}

func (a *app) imagePatchCmd() *cobra.Command {
	return &cobra.Command{
		Use: "patch [<remote>:]<base> <image> [<file>]", Short: "Write a binary patch between two images",
		Args: cobra.RangeArgs(2, 3),
		Long: "Write a binary patch between two images that kiln published. Put beside the image on a web server, under " +
			"the name that the file gets here, it lets clients that have the base download only what changed.",
		RunE: func(c *cobra.Command, args []string) error {
			base, err := a.image(c.Context(), args[0])
			if err != nil {
				return err
			}
			img, err := a.imageBeside(c.Context(), base, args[1])
			if err != nil {
				return err
			}
			if len(base.Files) == 0 || len(img.Files) == 0 {
				return kiln.Errorf(kiln.Unsupported, "the server %q doesn't tell which files its images have; it has to be kiln",
					base.at.Remote)
			}
			from, to := base.Files[len(base.Files)-1], img.Files[len(img.Files)-1]
			old, err := kiln.ParseFingerprint(from.Hash)
			if err != nil {
				return err
			}
			name := simplestreams.Beside(to.Role+to.Ext, "patch", old)
			if len(args) == 3 {
				name = args[2]
			}
			if err := writable(name); err != nil { // making a patch can take long
				return err
			}
			path := "/1.0/kiln/images/" + img.Fingerprint + "/files/" + to.Hash + "/patch/" + from.Hash
			if err := fetchBeside(c.Context(), base.at, path, name); err != nil {
				return err
			}
			fi, err := os.Stat(name)
			if err == nil {
				a.say("%s: %s in the place of %s", name, kiln.FormatSize(fi.Size()), kiln.FormatSize(to.Size))
			}
			return err
		}}
}

func writeStream(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// sweepTree removes the images that no index names for an hour: longer than clients
// keep an old one.
func sweepTree(dir string, named map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || named[e.Name()] || time.Since(fi.ModTime()) < time.Hour {
			continue
		}
		if _, err := kiln.ParseFingerprint(e.Name()); err == nil || strings.HasPrefix(e.Name(), ".new-") {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
