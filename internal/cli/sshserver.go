package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	mostSSH      = 32               // connections at once
	greetingTime = 30 * time.Second // that a client may take to sign in
)

// An sshServer is an SSH server (RFC 4251 to 4254) with a key of its own that offers the
// subsystem sftp, and nothing else.
type sshServer struct {
	user, password string
	open           bool // anybody may come
	config         *ssh.ServerConfig
	key            ssh.PublicKey
	connect        func(context.Context) (io.ReadWriteCloser, error) // opens what speaks SFTP
}

func newSSHServer(user, password string, open bool,
	connect func(context.Context) (io.ReadWriteCloser, error)) (*sshServer, error) {
	_, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewSignerFromKey(secret)
	if err != nil {
		return nil, err
	}
	s := &sshServer{user: user, password: password, open: open, key: key.PublicKey(), connect: connect}
	s.config = &ssh.ServerConfig{NoClientAuth: open}
	if !open {
		s.config.PasswordCallback = s.check
	}
	s.config.AddHostKey(key)
	return s, nil
}

func (s *sshServer) fingerprint() string { return ssh.FingerprintSHA256(s.key) }

func (s *sshServer) check(c ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
	right := subtle.ConstantTimeCompare([]byte(c.User()), []byte(s.user)) &
		subtle.ConstantTimeCompare(password, []byte(s.password))
	if right != 1 {
		return nil, errors.New("wrong name or password")
	}
	return nil, nil
}

// serve answers one connection, until it or ctx ends.
func (s *sshServer) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(greetingTime))
	conn, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return // who it was is told by the library
	}
	_ = c.SetDeadline(time.Time{})
	defer conn.Close()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	open := make(chan struct{}, mostSSH)
	for n := range channels {
		if n.ChannelType() != "session" {
			_ = n.Reject(ssh.UnknownChannelType, "there is SFTP only")
			continue
		}
		select {
		case open <- struct{}{}:
		default:
			_ = n.Reject(ssh.ResourceShortage, "too many sessions")
			continue
		}
		channel, requests, err := n.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() {
			defer func() { <-open }()
			s.session(ctx, channel, requests)
		})
	}
}

// session serves the one session of a channel, which must ask for SFTP.
func (s *sshServer) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	var begun bool
	var done sync.WaitGroup
	defer done.Wait()
	for r := range requests {
		var subsystem struct{ Name string }
		wanted := r.Type == "subsystem" && ssh.Unmarshal(r.Payload, &subsystem) == nil && subsystem.Name == "sftp" && !begun
		var inside io.ReadWriteCloser
		if wanted {
			var err error
			if inside, err = s.connect(ctx); err != nil {
				wanted = false
				_, _ = io.WriteString(channel.Stderr(), err.Error()+"\n")
			}
		}
		if r.WantReply {
			_ = r.Reply(wanted, nil)
		}
		if !wanted {
			continue
		}
		begun = true
		done.Go(func() {
			_, _ = io.Copy(inside, channel)
			inside.Close()
		})
		done.Go(func() {
			_, _ = io.Copy(channel, inside)
			channel.Close() // which ends the other one, and the requests
		})
	}
}
