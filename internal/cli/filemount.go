package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) fileMountCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "mount [<remote>:]<instance>[/<path>] [<directory>]",
		Short: "Mount files of an instance here, or serve them by SFTP",
		Long: "Mount a directory of an instance on one of this host until ctrl-c is pressed; this needs sshfs. Without a " +
			"directory of this host, the files are served to any program that speaks SFTP, such as sftp, at the address and " +
			"with the password that are shown.",
		Args: cobra.RangeArgs(1, 2),
	}
	listen := c.Flags().String("listen", "", "address to serve SFTP at; 127.0.0.1 and a free port unless given")
	user := c.Flags().String("auth-user", "", "name to sign in with; made up unless given")
	open := c.Flags().Bool("no-auth", false, "serve SFTP to anybody who reaches the address")
	c.RunE = func(c *cobra.Command, args []string) error {
		word := args[0]
		if !strings.Contains(word, "/") {
			word += "/"
		}
		at, err := a.fileAt(word)
		if err != nil {
			return err
		}
		if len(args) == 2 && (*listen != "" || *user != "" || *open) {
			return usageError{errors.New("--listen, --auth-user and --no-auth are for serving SFTP; leave out either them or " +
				"the directory")}
		}
		if at, err = at.pin(c.Context()); err != nil {
			return err
		}
		if err := at.checkDirectory(c.Context()); err != nil {
			return err
		}
		if len(args) == 2 {
			return a.mountFiles(c.Context(), at, args[1])
		}
		s, err := newSSHServer(orElse(*user, rand.Text()[:8]), rand.Text(), *open,
			func(ctx context.Context) (io.ReadWriteCloser, error) { return at.SFTP(ctx, at.Name) })
		if err != nil {
			return err
		}
		return a.serveFiles(c.Context(), s, at, orElse(*listen, "127.0.0.1:0"))
	}
	return c
}

// checkDirectory says whether an instance has a directory.
func (at filePlace) checkDirectory(ctx context.Context) error {
	f, err := at.OpenFile(ctx, at.Name, at.path)
	if err != nil {
		return at.explain(ctx, err)
	}
	if f.Body != nil {
		f.Body.Close()
	}
	if f.Type == client.RegularFile {
		return kiln.Errorf(kiln.Invalid, "%s is a file; directories can be mounted", at)
	}
	return nil
}

// unmountTime is how long sshfs may take to end once it is asked to.
const unmountTime = 10 * time.Second

// mountFiles has sshfs mount a directory of an instance, until ctx ends or somebody unmounts it.
func (a *app) mountFiles(ctx context.Context, at filePlace, directory string) error {
	program, err := exec.LookPath("sshfs")
	if err != nil {
		return kiln.Errorf(kiln.Unsupported, "mounting needs sshfs, which isn't installed; install it, or leave %q out to "+
			"have the files served by SFTP", directory)
	}
	if fi, err := os.Stat(directory); err != nil {
		return kiln.Errorf(kiln.NotFound, "there is nothing to mount on: %w", err)
	} else if !fi.IsDir() {
		return kiln.Errorf(kiln.Invalid, "%q is no directory to mount on", directory)
	}
	conn, err := at.SFTP(ctx, at.Name)
	if err != nil {
		return at.explain(ctx, err)
	}
	defer conn.Close()
	cmd := exec.CommandContext(ctx, program, "-o", "slave", at.Name+":"+at.path, directory)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it unmounts
	cmd.WaitDelay = unmountTime
	cmd.Stderr = a.Err
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stdout = conn
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, conn) // ends with either
		in.Close()
	}()
	a.remark("%s is mounted on %s; press ctrl-c to unmount it", at, directory)
	err = cmd.Wait()
	if ctx.Err() != nil { // as asked
		return nil
	}
	if err != nil {
		return kiln.Errorf(kiln.Internal, "sshfs ended: %w", err)
	}
	return nil
}

// serveFiles serves SFTP until ctx ends.
func (a *app) serveFiles(ctx context.Context, s *sshServer, at filePlace, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return kiln.Errorf(kiln.Invalid, "serve SFTP: %w; give another address with --listen", err)
	}
	a.print("The files of %s are served by SFTP at %s, until ctrl-c is pressed", at.Name, l.Addr())
	if s.open {
		a.print("Anybody who reaches that address may change them")
	} else {
		a.print("Sign in as %q with the password %q", s.user, s.password)
	}
	a.print("Its host key is %s", s.fingerprint())
	var serving sync.WaitGroup
	defer serving.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, mostSSH)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve SFTP: %w", err)
		}
		select {
		case slots <- struct{}{}:
			serving.Go(func() {
				defer func() { <-slots }()
				s.serve(ctx, c)
			})
		default:
			c.Close() // it may come back
		}
	}
}
