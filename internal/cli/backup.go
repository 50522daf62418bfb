package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// backupTime is how long a server keeps a backup that is being fetched, if it isn't told
// that it was.
const backupTime = 24 * time.Hour

func (a *app) exportCmd() *cobra.Command {
	c := &cobra.Command{Use: "export [<remote>:]<instance> [<file>|<directory>|-]",
		Short: "Export an instance with its snapshots as a backup",
		Long: "Export an instance with its snapshots into a file, as a backup in the format of LXD: kiln import, lxc " +
			"import and incus import make an instance of it. A running instance keeps running. Without a file, the backup is " +
			"<instance>.tar and what the compression adds, in this directory.",
		Args: cobra.RangeArgs(1, 2)}
	f := c.Flags()
	only, optimized, compression := backupFlags(f, "instance-only")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		target := strings.Join(args[1:], "")
		if strings.Contains(at.Name, "/") {
			return a.typed(at, kiln.Errorf(kiln.Unsupported, "a snapshot isn't exported by itself; make an instance of it "+
				"first: kiln copy %s NEW", at.Name))
		}
		post := api.InstanceBackupsPost{ExpiresAt: time.Now().Add(backupTime).UTC(), InstanceOnly: *only,
			ContainerOnly: *only, OptimizedStorage: *optimized, CompressionAlgorithm: *compression}
		return a.suggest(c.Context(), at, a.exportBackup(c.Context(), at, instancePath(at.Name), at.Name, post, target))
	}
	return c
}

// backupFlags are those of what makes a backup; alone is called the one for it without its
// snapshots.
func backupFlags(f *pflag.FlagSet, alone string) (only, optimized *bool, compression *string) {
	only = f.Bool(alone, false, "without the snapshots")
	optimized = f.Bool("optimized-storage", false, "")
	_ = f.MarkHidden("optimized-storage") // lxc has it
	compression = f.String("compression", "", "none, gzip, zstd, xz, bzip2 or lz4, with options, as in \"xz -9\" "+
		"(default: the server's backups.compression_algorithm)")
	return only, optimized, compression
}

// exportBackup has the server make a backup of what is at a path, and fetches it.
func (a *app) exportBackup(ctx context.Context, at place.Place, of, name string, post any, target string) error {
	if target == "-" && terminal(a.Out) {
		return usageError{errors.New("a backup isn't written to a terminal; redirect the output, or name a file")}
	}
	if target != "-" { // making the backup can take long
		if err := writable(target); err != nil {
			return err
		}
	}
	op, err := a.watch(ctx, at, client.Request{Method: http.MethodPost, Path: of + "/backups", Body: post})
	if err != nil {
		return err
	}
	urls := op.Resources["backups"]
	if len(urls) == 0 {
		return kiln.Errorf(kiln.Network, "the server doesn't say which backup it made")
	}
	which := client.Path(of+"/backups", path.Base(urls[0]))
	defer func() { // it would expire
		_ = at.Change(context.WithoutCancel(ctx), http.MethodDelete, which, nil, "")
	}()
	if err := a.fetchBackup(ctx, at, which, name, target); err != nil {
		return err
	}
	if target != "-" {
		a.say("Backup exported successfully!")
	}
	return nil
}

// writable says why no file can be made where a backup is to go: in a directory, or in that
// of a file.
func writable(target string) error {
	dir := filepath.Dir(target) // of what ends with a slash, all before that
	if fi, err := os.Stat(target); err == nil && fi.IsDir() {
		dir = target
	}
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return kiln.Errorf(kiln.NotFound, "there is no directory %s", dir)
	case err == nil && !fi.IsDir():
		return kiln.Errorf(kiln.Invalid, "%s is no directory", dir)
	case err == nil:
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "write into %s: %w", dir, bare(err))
	}
	return nil
}

// fetchBackup writes the tarball of a backup to a target, all of it or none.
func (a *app) fetchBackup(ctx context.Context, at place.Place, which, name, target string) error {
	var b struct{ Size int64 }
	if _, err := at.Get(ctx, which, nil, &b); err != nil {
		return err
	}
	if b.Size == 0 {
		b.Size = -1 // LXD doesn't say
	}
	wrap, done := a.progress("Exporting the backup", b.Size)
	defer done()
	return at.Download(ctx, which+"/export", func(r io.Reader) error {
		body := bufio.NewReader(wrap(r))
		if target == "-" {
			_, err := io.Copy(a.Out, body)
			return err
		}
		head, err := body.Peek(backupHead)
		if err != nil && !errors.Is(err, io.EOF) {
			return kiln.Errorf(kiln.Network, "the backup broke off on its way: %w", err)
		}
		return writeFile(backupFile(target, name, head), body)
	})
}

// backupHead is how many bytes tell how a backup is compressed.
const backupHead = 6

// backupFile is where a backup goes: under the user's name, or under that of what it is of,
// with what says how it is compressed.
func backupFile(target, name string, head []byte) string {
	fi, err := os.Stat(target)
	if target != "" && (err != nil || !fi.IsDir()) {
		return target
	}
	ext := ".tar"
	for magic, e := range map[string]string{"\x1f\x8b": ".gz", "\x28\xb5\x2f\xfd": ".zst", "\xfd7zXZ": ".xz",
		"BZh": ".bz2", "\x04\x22\x4d\x18": ".lz4"} {
		if strings.HasPrefix(string(head), magic) {
			ext += e
		}
	}
	return filepath.Join(target, name+ext)
}

// writeFile makes a file appear with all that a server sends, or not at all.
func writeFile(final string, r io.Reader) error {
	temp, err := os.CreateTemp(filepath.Dir(final), ".kiln-export-")
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "write %s: %w", final, bare(err))
	}
	defer os.Remove(temp.Name()) // gone if it has its name
	n, err := io.Copy(temp, r)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = kiln.Errorf(kiln.Network, "the backup broke off on its way, after %d bytes", n)
	}
	if err := errors.Join(err, temp.Chmod(0o600), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), final)
}

func (a *app) importCmd() *cobra.Command {
	c := &cobra.Command{Use: "import [<remote>:] <file>|- [<name>]",
		Short: "Import an instance with its snapshots from a backup",
		Long: "Import an instance with its snapshots from a backup, as kiln export, lxc export and incus export write it. " +
			"Its configuration can be changed on the way: an option without a value is left out, of its snapshots as well. " +
			"Devices that would reach the host, such as its disks, are left out with a warning; other access to it is refused.",
		Args: cobra.RangeArgs(1, 3)}
	o, f := &importFlags{}, c.Flags()
	f.StringArrayVarP(&o.config, "config", "c", nil, "configuration key=value of the instance (repeatable)")
	f.StringArrayVarP(&o.devices, "device", "d", nil, "device name,key=value[,key=value...]; these and no others "+
		"(repeatable)")
	f.StringArrayVarP(&o.profiles, "profile", "p", nil, "profile of the instance (repeatable)")
	f.BoolVar(&o.noProfiles, "no-profiles", false, "apply no profile")
	f.BoolVar(&o.hostAccess, "host-access", false, "keep privileges, raw configuration and devices of the host, too")
	f.StringVarP(&o.pool, "storage", "s", "", "storage pool")
	_ = f.MarkHidden("storage") // lxc has it
	c.RunE = func(c *cobra.Command, args []string) error {
		remote := ""
		if _, err := os.Stat(args[0]); err != nil && place.IsServer(args[0]) && len(args) > 1 {
			remote, args = args[0], args[1:]
		}
		if len(args) > 2 {
			return usageError{fmt.Errorf("unexpected argument %q; usage: %s", args[2], c.UseLine())}
		}
		at, err := a.At(remote)
		if err != nil {
			return err
		}
		if len(args) == 2 {
			if at.Name, err = importName(args[1]); err != nil {
				return err
			}
		}
		return a.importInstance(c.Context(), at, args[0], o)
	}
	return c
}

func importName(word string) (string, error) {
	if strings.Contains(word, ":") {
		return "", usageError{fmt.Errorf("%q is no name; the remote comes before the file", word)}
	}
	return word, kiln.CheckInstanceName(word)
}

// importFlags are what can be said of an instance that is imported.
type importFlags struct {
	config, devices, profiles []string
	noProfiles, hostAccess    bool
	pool                      string
}

// header is what the server is told of it; "" for nothing.
func (o *importFlags) header() (string, error) {
	var post api.InstancesPost
	if len(o.config) > 0 || len(o.devices) > 0 {
		if err := describe(&post.InstancePut, o.config, o.devices, ""); err != nil {
			return "", err
		}
	}
	switch {
	case o.noProfiles:
		post.Profiles = []string{}
	case len(o.profiles) > 0:
		post.Profiles = o.profiles
	}
	post.Source.HostAccess = o.hostAccess
	if len(o.config)+len(o.devices) == 0 && post.Profiles == nil && !o.hostAccess {
		return "", nil
	}
	if len(o.devices) == 0 {
		post.Devices = nil
	}
	b, err := json.Marshal(post)
	return string(b), err
}

// importInstance sends the backup of an instance to a server.
func (a *app) importInstance(ctx context.Context, at place.Place, file string, o *importFlags) error {
	h := http.Header{}
	if o.pool != "" {
		h[http.CanonicalHeaderKey("X-LXD-pool")] = []string{o.pool}
	}
	more, err := o.header()
	if err != nil {
		return err
	}
	if more != "" {
		s, err := trustedServer(ctx, at)
		if err != nil {
			return err
		}
		if !slices.Contains(s.APIExtensions, "kiln_instance_backup") {
			return kiln.Errorf(kiln.Unsupported, "the server %q imports backups as they are; import it without flags and "+
				"change it then: kiln config", at.Remote)
		}
		h[api.InstanceHeader] = []string{more}
	}
	return a.sendBackup(ctx, at, file, "/1.0/instances", at.Name, "for images: kiln image import", h)
}

// sendBackup has a server make something of a backup; name is what it is called, "" for what
// the backup says, and instead what to do with a directory.
func (a *app) sendBackup(ctx context.Context, at place.Place, file, to, name, instead string, h http.Header) error {
	in, size := io.Reader(a.In), int64(-1)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fileError(err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err == nil && fi.IsDir() {
			err = kiln.Errorf(kiln.Invalid, "%s is a directory and no backup; %s", file, instead)
		}
		if err != nil {
			return err
		}
		in, size = f, fi.Size()
	}
	h.Set("Content-Type", "application/octet-stream")
	if name != "" {
		h.Set("X-LXD-name", name)
	}
	wrap, done := a.progress("Importing "+filepath.Base(file), size)
	op, err := start(ctx, at, client.Request{Method: http.MethodPost, Path: to, Header: h,
		Size: max(size, 0), Body: struct{ io.Reader }{wrap(in)}})
	done()
	if err == nil {
		_, err = a.await(ctx, at, op)
	}
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "import %s: %w", file, err)
	}
	return nil
}
