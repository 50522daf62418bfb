package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/remote"
)

func (a *app) imageImportCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "import <file>|<directory>|<url> [<rootfs>] [<remote>:] [<key>=<value>...]",
		Short: "Import an image",
		Long: "Import an image: one tarball or squashfs with everything, two files (metadata and root " +
			"filesystem, in either order), a directory, " +
			"or just a root filesystem, whose metadata is then generated. Formats are detected by content.\n\n" +
			"A URL is fetched by the server, over plain http only if images.allow_http is set there. Its certificate " +
			"must be signed by a CA that is trusted there, or be that of a remote with the same host and port, or be told " +
			"by --fingerprint or --ca.",
		Args: cobra.MinimumNArgs(1),
	}
	aliases := c.Flags().StringArray("alias", nil, "alias of the image (repeatable); moved from the image that "+
		"has it")
	public := c.Flags().Bool("public", false, "make the image public: untrusted clients may use it")
	c.Flags().Bool("reuse", false, "accepted for scripts: an alias moves anyway, and the image it leaves is kept as the "+
		"version before (images.keep_versions)")
	fingerprint := c.Flags().String("fingerprint", "", "SHA-256 of the certificate that the server of a URL must show")
	ca := c.Flags().String("ca", "", "file with the CA certificate of the server of a URL, in PEM form")
	signFlag(c)
	proof := proofFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		img := kiln.Image{Public: *public, Properties: map[string]string{}}
		for _, n := range *aliases {
			if err := kiln.CheckAlias(n); err != nil {
				return err
			}
			img.Aliases = append(img.Aliases, kiln.Alias{Name: n})
		}
		var paths []string
		at, err := a.At("")
		if err != nil {
			return err
		}
		for i, w := range args {
			key, value, ok := strings.Cut(w, "=")
			switch _, err := os.Stat(w); {
			case i > 0 && err != nil && a.namesServer(w):
				if err := forServer(w); err != nil {
					return err
				}
				if at, err = a.At(w); err != nil {
					return err
				}
			case i > 0 && ok && err != nil && !strings.Contains(key, "://"):
				img.Properties[key] = value
			default:
				paths = append(paths, w)
			}
		}
		by, err := a.wantedSigner(c, at.Remote)
		if err != nil {
			return err
		}
		if len(paths) == 1 && isURL(paths[0]) {
			if len(proof.signatures) > 0 {
				return usageError{errors.New("--signature is of a file; of a URL the server tells what signature it has")}
			}
			fp, err := a.importURL(c.Context(), at, paths[0], img, webTrust{*fingerprint, *ca, proof.key})
			if err != nil {
				return err
			}
			return a.signNew(c.Context(), at, fp, by)
		}
		if *fingerprint != "" || *ca != "" {
			return usageError{errors.New("--fingerprint and --ca are about the server of a URL; a file has none")}
		}
		files, err := proof.of(c.Context(), a, remote.Files{Paths: paths}, &img)
		if err != nil {
			return err
		}
		fp, err := a.importImage(c.Context(), at, files, img)
		if err != nil {
			return err
		}
		return a.signNew(c.Context(), at, fp.String(), by)
	}
	return c
}

// namesServer reports whether a word begins with a server: "srv:", also with a name after it
// if there is such a remote.
func (a *app) namesServer(word string) bool {
	remote, rest, ok := strings.Cut(word, ":")
	if !ok || strings.ContainsAny(remote, "/=") {
		return false
	}
	config, err := a.Config()
	return strings.HasSuffix(rest, ":") || rest == "" || err == nil && config.Remotes[remote] != nil
}

// importImage is kiln.Copy with what the user says of the image. It gives the fingerprint.
func (a *app) importImage(ctx context.Context, at place.Place, src provenFiles, img kiln.Image) (kiln.Fingerprint,
	error) {
	found, err := src.Find(ctx, "")
	if err != nil {
		return kiln.Fingerprint{}, err
	}
	img.Filename = found.Filename
	var total int64
	for _, p := range src.Paths {
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
			total += fi.Size()
		} else {
			total = -1
		}
	}
	images := at.Images()
	images.Warn = a.warn
	var names []string
	for _, p := range src.Paths {
		names = append(names, filepath.Base(p))
	}
	got, err := kiln.Copy(ctx, images, carried{Source: src, app: a, what: "Importing " + strings.Join(names, " and "),
		from: found, img: img, size: total}, "")
	if errors.Is(err, kiln.Conflict) && !got.Fingerprint.IsZero() {
		a.say("Image is there already, with fingerprint: %s%s", got.Fingerprint, applied(img))
		return got.Fingerprint, nil
	}
	if err != nil {
		return got.Fingerprint, kiln.Errorf(kiln.KindOf(err), "import %s: %w", strings.Join(src.Paths, " "), err)
	}
	a.say("Image imported with fingerprint: %s", got.Fingerprint)
	return got.Fingerprint, nil
}

// applied tells what was done to an image that was there already: what the user said of
// it holds all the same.
func applied(img kiln.Image) string {
	var what []string
	for _, al := range img.Aliases {
		what = append(what, "alias "+al.Name)
	}
	if len(img.Properties) > 0 {
		what = append(what, "properties")
	}
	if img.Public {
		what = append(what, "public")
	}
	if len(what) == 0 {
		return ""
	}
	return "; applied to it: " + strings.Join(what, ", ")
}

func (a *app) imageExportCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "export [<remote>:]<image> [<directory>|<file>|-]",
		Short: "Export the files of an image",
		Args:  cobra.RangeArgs(1, 2),
		Long: "Export the files of an image: one, or metadata and root filesystem. Of a signed image, what was signed is " +
			"beside the first file, as a text whose name ends in .statement, with its signature (.statement.minisig): " +
			"kiln image import of the file takes them, and so does minisign -V -m FILE.statement, which shows the SHA-256.",
		RunE: func(c *cobra.Command, args []string) error {
			target := "."
			if len(args) == 2 {
				target = args[1]
			}
			if err := a.exportable(target); err != nil { // before anything is fetched
				return err
			}
			src, i, err := a.FindImage(c.Context(), args[0])
			if err != nil {
				return err
			}
			s, err := carried{Source: src, app: a, what: "Exporting the image", from: i, size: i.Size}.Open(c.Context(), i)
			if err != nil {
				return err
			}
			r, err := a.Config()
			if err != nil {
				return err
			}
			remote, _ := r.Split(args[0])
			i.Signature = a.signature(i, remote)
			err = a.export(i, &checked{Stream: s, sum: sha256.New()}, target)
			err = errors.Join(err, s.Close())
			if err == nil && target != "-" {
				a.say("Image exported successfully!")
			}
			return err
		}}
	a.staleFlag(c)
	return c
}

// checked is a stream whose bytes are hashed as they are read.
type checked struct {
	kiln.Stream
	sum hash.Hash
}

func (c *checked) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	c.sum.Write(b[:n])
	return n, err
}

// is says whether what was read is an image. The error is Integrity.
func (c *checked) is(want kiln.Fingerprint) error {
	if got := hex.EncodeToString(c.sum.Sum(nil)); got != want.String() {
		return kiln.Errorf(kiln.Integrity, "the server sent other files than those of the image %s: their fingerprint is %s",
			want, got)
	}
	return nil
}

// exportable says why an image can't be written to a target.
func (a *app) exportable(target string) error {
	if target != "-" {
		return writable(target)
	}
	if terminal(a.Out) {
		return usageError{fmt.Errorf("an image isn't written to a terminal; redirect the output, or name a file")}
	}
	return nil
}

// export writes the files of an image to a target, all of them or none.
func (a *app) export(i kiln.Image, s *checked, target string) error {
	fp := i.Fingerprint
	if target == "-" {
		for {
			f, err := s.Next()
			if errors.Is(err, io.EOF) {
				return s.is(fp)
			} else if err != nil {
				return err
			}
			if f.Role == kiln.Metadata {
				return kiln.Errorf(kiln.Invalid, "the image has two files, which can't be told apart on standard output; "+
					"export them into a directory: kiln image export %s <directory>/", fp.Short())
			}
			if _, err := io.Copy(a.Out, s); err != nil {
				return err
			}
		}
	}
	var temps, finals []string
	defer func() {
		for _, t := range temps {
			os.Remove(t) // gone if it has its name
		}
	}()
	for {
		f, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		final := exportName(target, fp, f)
		temp, err := os.CreateTemp(filepath.Dir(final), ".kiln-export-")
		if err != nil {
			return kiln.Errorf(kiln.KindOf(err), "write %s: %w", final, bare(err))
		}
		temps, finals = append(temps, temp.Name()), append(finals, final)
		_, err = io.Copy(temp, s)
		if err := errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close()); err != nil {
			return err
		}
	}
	if err := s.is(fp); err != nil {
		return err
	}
	beside, err := statementFiles(i.Signature)
	if err != nil {
		return err
	}
	for _, b := range beside {
		temp, err := tempFile(filepath.Dir(finals[0]), b.content)
		if err != nil {
			return err
		}
		temps, finals = append(temps, temp), append(finals, finals[0]+b.suffix)
	}
	for i := range temps {
		if err := os.Rename(temps[i], finals[i]); err != nil {
			return err
		}
	}
	return nil
}

// tempFile makes a file with a content, which isn't called what it is to be yet.
func tempFile(dir, content string) (string, error) {
	temp, err := os.CreateTemp(dir, ".kiln-export-")
	if err != nil {
		return "", bare(err)
	}
	_, err = temp.WriteString(content)
	return temp.Name(), errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
}

// bare is an error of the operating system without the name of a file that nobody asked
// for.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// fileError is an error about a file here, which it names once.
func fileError(err error) error {
	var path *fs.PathError
	switch {
	case !errors.As(err, &path):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return kiln.Errorf(kiln.NotFound, "no file %q", path.Path)
	}
	return kiln.Errorf(kiln.KindOf(err), "%s: %w", path.Path, path.Err)
}

// extension is what a file of an image may be called after its name.
var extension = regexp.MustCompile(`^(\.[a-z0-9]{1,10}){0,2}$`)

// exportName is where a file of an image goes: under the user's name, with what belongs
// after it, or into a directory under the image's fingerprint. A server has no say in
// it: what it calls a file may be the name of one that is there.
func exportName(target string, fp kiln.Fingerprint, f kiln.File) string {
	if !extension.MatchString(f.Ext) {
		f.Ext = ""
	}
	if fi, err := os.Stat(target); err == nil && fi.IsDir() {
		name := fp.String() + f.Ext
		if f.Role == kiln.Metadata {
			name = "meta-" + name
		}
		return filepath.Join(target, name)
	}
	switch f.Role {
	case kiln.Metadata:
		return target
	case kiln.Rootfs:
		return target + ".root"
	}
	return target + f.Ext
}

func (a *app) imageHashCmd() *cobra.Command {
	return &cobra.Command{Use: "hash <file> [<rootfs>]", Short: "Compute the fingerprint of image files",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			fp, err := format.Hash(c.Context(), args...)
			if err == nil {
				fmt.Fprintln(a.Out, fp)
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = fileError(err)
			}
			return err
		}}
}

func wireAliases(aliases []kiln.Alias) []api.ImageAlias {
	list := []api.ImageAlias{}
	for _, al := range aliases {
		list = append(list, api.ImageAlias{Name: al.Name, Description: al.Description})
	}
	return list
}
