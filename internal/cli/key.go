package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/signing"
)

func (a *app) keyCmd() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Manage the keys that images are signed with",
		Long: "Manage the keys that images are signed with, and verified. They are files of minisign in the directory " +
			"keys of the client's configuration: a public key is for everybody, a secret key never leaves this client " +
			"unless it is exported."}
	c.AddCommand(a.keyGenerateCmd(), a.keyListCmd(), a.keyShowCmd(), a.keyImportCmd(), a.keyExportCmd(), a.keyDeleteCmd(),
		a.keySignCmd(), a.keyRotateCmd(), a.keyServeCmd(), a.keyLendCmd())
	return c
}

// keys gives the user's keys.
func (a *app) keys() (place.Keys, error) {
	r, err := a.Config()
	if err != nil {
		return place.Keys{}, err
	}
	return r.Keys(), nil
}

func (a *app) keyGenerateCmd() *cobra.Command {
	c := &cobra.Command{Use: "generate [<key-name>]", Short: "Generate a key to sign images with",
		Args: cobra.MaximumNArgs(1),
		Long: "Generate a key to sign images with. It is called \"default\" unless it is named."}
	encrypt := c.Flags().Bool("encrypt", false, "encrypt the secret key with a password, which is asked for whenever "+
		"something is signed; each time that takes a gigabyte of memory for some seconds")
	c.RunE = func(_ *cobra.Command, args []string) error {
		name := place.DefaultKey
		if len(args) > 0 {
			name = args[0]
		}
		keys, err := a.keys()
		if err != nil {
			return err
		}
		if err := keys.Free(name); err != nil {
			return err
		}
		password := ""
		if *encrypt {
			if password, err = a.newPassword(name); err != nil {
				return err
			}
		}
		secret, err := signing.Generate()
		if err != nil {
			return err
		}
		file, err := secret.File(password)
		if err != nil {
			return err
		}
		if err := keys.Add(name, secret.Key(), file); err != nil {
			return err
		}
		a.say("Key %s generated; who is to verify what it signs needs its public key:\n%s", name, secret.Key())
		return nil
	}
	return c
}

// newPassword asks twice for a password that isn't empty.
func (a *app) newPassword(key string) (string, error) {
	password, err := a.askPassword(fmt.Sprintf("New password for the key %s: ", key))
	if err != nil {
		return "", err
	}
	if password == "" {
		return "", kiln.Errorf(kiln.Invalid, "the password is empty; for a key without one leave --encrypt out")
	}
	again, err := a.askPassword("The same again: ")
	if err == nil && again != password {
		err = kiln.Errorf(kiln.Invalid, "the two passwords differ; no key was made")
	}
	return password, err
}

// askPassword reads a line that a terminal doesn't show. The error is interruptedPrompt
// when the user typed ctrl-c.
func (a *app) askPassword(prompt string) (string, error) {
	if in, ok := a.In.(*os.File); ok && terminal(a.In) {
		defer fmt.Fprintln(a.Err)
		return a.readHidden(int(in.Fd()), prompt)
	}
	fmt.Fprint(a.Err, printable(prompt))
	line, err := a.readLine()
	a.endPrompt()
	if errors.Is(err, io.EOF) {
		err = nil // the last line, or none
	}
	return line, err
}

// readHidden is readLine with a terminal that shows nothing from before the prompt on, after
// which somebody may type at once, and is as it was afterwards.
func (a *app) readHidden(fd int, prompt string) (line string, err error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, term.Restore(fd, before)) }()
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Lflag &^= unix.ECHO
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		return "", err
	}
	fmt.Fprint(a.Err, printable(prompt))
	type answer struct {
		line []byte
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		typed <- answer{line, err}
	}()
	select {
	case <-a.interrupted:
		return "", interruptedPrompt
	case got := <-typed:
		return string(got.line), got.err
	}
}

// keyInfo is what is shown of a key.
type keyInfo struct {
	Name   string `json:"name" yaml:"name"`
	ID     string `json:"id" yaml:"id"`
	Secret string `json:"secret" yaml:"secret"`
	Public string `json:"public" yaml:"public"`
}

func infoOf(n place.NamedKey) keyInfo {
	info := keyInfo{n.Name, n.Key.ID(), "no", n.Key.String()}
	switch {
	case n.Encrypted:
		info.Secret = "encrypted"
	case n.Secret:
		info.Secret = "yes"
	}
	return info
}

func (a *app) keyListCmd() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List keys", Args: cobra.NoArgs}
	show := listFlags(a, list, "nisp", []column[keyInfo]{
		col('n', "NAME", func(k keyInfo) string { return k.Name }),
		col('i', "ID", func(k keyInfo) string { return k.ID }),
		col('s', "SECRET", func(k keyInfo) string { return k.Secret }),
		col('p', "PUBLIC KEY", func(k keyInfo) string { return k.Public }),
	})
	list.RunE = func(*cobra.Command, []string) error {
		keys, err := a.keys()
		if err != nil {
			return err
		}
		all, err := keys.List()
		var rows []keyInfo
		for _, n := range all {
			rows = append(rows, infoOf(n))
		}
		return errors.Join(show(rows), err)
	}
	return list
}

func (a *app) keyShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show <key-name>", Short: "Show a key as YAML", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := a.keys()
			if err != nil {
				return err
			}
			n, err := keys.Find(args[0])
			if err != nil {
				return err
			}
			return a.yaml(infoOf(n))
		}}
}

func (a *app) keyImportCmd() *cobra.Command {
	return &cobra.Command{
		Use: "import <file>|<public-key> [<key-name>]", Short: "Import a key of minisign, public or secret",
		Args: cobra.RangeArgs(1, 2),
		Long: "Import a key of minisign: a file with a public or a secret key, or a public key itself (RW…). A secret " +
			"key that is encrypted stays so, and its password is asked for once. A key from a file has the name of the " +
			"file unless it is given another.",
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := a.keys()
			if err != nil {
				return err
			}
			base := filepath.Base(args[0])
			name := strings.TrimSuffix(base, filepath.Ext(base))
			if _, err := signing.ParseKey(args[0]); err == nil {
				name = ""
			}
			if len(args) > 1 {
				name = args[1]
			}
			if name == "" {
				return usageError{errors.New("give the key a name: kiln key import <public-key> <key-name>")}
			}
			if err := keys.Free(name); err != nil {
				return err
			}
			file, err := place.ReadKeyFile(args[0])
			if err == nil && signing.IsSecret(file) {
				return a.importSecret(keys, name, file)
			}
			key, err := place.PublicKey(args[0])
			if err != nil {
				return err
			}
			if err := keys.Add(name, key, nil); err != nil {
				return err
			}
			a.say("Public key %s imported: %s", key.ID(), name)
			return nil
		}}
}

// importSecret keeps a file with a secret key.
func (a *app) importSecret(keys place.Keys, name string, file []byte) error {
	secret, err := a.unlock(name, file)
	if err != nil {
		return err
	}
	if err := keys.Add(name, secret.Key(), file); err != nil {
		return err
	}
	a.say("Secret key %s imported: %s", secret.Key().ID(), name)
	return nil
}

// unlock reads a file with a secret key, and asks for its password if it has one.
func (a *app) unlock(name string, file []byte) (s signing.Secret, err error) {
	password := ""
	if signing.Encrypted(file) {
		if password, err = a.askPassword(fmt.Sprintf("Password for the key %s: ", name)); err != nil {
			return s, err
		}
	}
	if s, err = signing.ParseSecret(file, password); err != nil {
		err = kiln.Errorf(kiln.KindOf(err), "the key %q can't be used: %w", name, err)
	}
	return s, err
}

func (a *app) keyExportCmd() *cobra.Command {
	c := &cobra.Command{Use: "export <key-name> [<file>|-]", Short: "Export a key as a file of minisign",
		Args: cobra.RangeArgs(1, 2),
		Long: "Export a key as a file of minisign: its public part, or with --secret its secret part, encrypted if it is " +
			"here. Without a file it is written to standard output."}
	secret := c.Flags().Bool("secret", false, "export the secret part")
	c.RunE = func(_ *cobra.Command, args []string) error {
		keys, err := a.keys()
		if err != nil {
			return err
		}
		n, err := keys.Find(args[0])
		if err != nil {
			return err
		}
		file := n.Key.File()
		if *secret {
			if file, err = keys.SecretFile(n.Name); err != nil {
				return err
			}
		}
		if len(args) == 1 || args[1] == "-" {
			_, err = a.Out.Write(file)
			return err
		}
		if *secret {
			if _, err := os.Lstat(args[1]); err == nil {
				return kiln.Errorf(kiln.Conflict, "there is a file %s already, which others may be able to read; name another",
					args[1])
			}
			return disk.WriteBytes(args[1], 0o600, file)
		}
		return disk.WriteBytes(args[1], 0o644, file)
	}
	return c
}

func (a *app) keyDeleteCmd() *cobra.Command {
	c := &cobra.Command{Use: "delete <key-name>...", Short: "Delete keys",
		Args: cobra.MinimumNArgs(1),
		Long: "Delete keys. What was signed with one stays signed. A secret key is only deleted with --force: nobody can " +
			"bring it back."}
	force := c.Flags().BoolP("force", "f", false, "also delete a secret key")
	c.RunE = func(_ *cobra.Command, args []string) error {
		keys, err := a.keys()
		if err != nil {
			return err
		}
		if _, err := allThere(args, func(name string) (string, error) {
			if err := place.CheckKeyName(name); err != nil {
				return name, err
			}
			_, err := keys.SecretFile(name)
			switch {
			case errors.Is(err, kiln.NotFound):
				_, err = keys.Find(name)
				if !errors.Is(err, kiln.NotFound) { // a damaged one can go
					err = nil
				}
			case !*force:
				err = kiln.Errorf(kiln.Invalid, "%q is a secret key, which nobody can bring back; keep a copy of it (kiln key "+
					"export %s --secret <file>), and delete it with --force", name, name)
			}
			return name, err
		}); err != nil {
			return err
		}
		return each(args, keys.Remove)
	}
	return c
}
