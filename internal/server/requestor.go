package server

import (
	"context"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/trust"
)

type localUserKey struct{}

// withLocalUser remembers whose process is at the other end of a unix socket. The name
// is looked up when it is asked for first: a directory service may take its time.
func withLocalUser(ctx context.Context, c *net.UnixConn) context.Context {
	raw, err := c.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, localUserKey{}, &localUser{peer.Uid, peer.Pid,
		sync.OnceValue(func() string { return userName(peer.Uid) })})
}

// A localUser is whose process is at the other end of a unix socket.
type localUser struct {
	uid  uint32
	pid  int32
	name func() string
}

// userName is the name of a user of this host, or "uid=1000" for one without.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	u, err := user.LookupId(id)
	if err != nil {
		return "uid=" + id
	}
	return u.Username
}

// requestor is how events name the caller of a request.
func (c caller) requestor(r *http.Request) *event.Requestor {
	q := &event.Requestor{Protocol: c.protocol, Address: c.address}
	switch local, ok := r.Context().Value(localUserKey{}).(*localUser); {
	case c.protocol != "unix":
		q.Address = r.RemoteAddr
		if c.cert != nil {
			q.Username = trust.Fingerprint(c.cert)
		}
	case ok:
		q.Username = local.name()
	}
	return q
}

// who is how the record of what matters for security names the caller of a request.
func (c caller) who(r *http.Request) *audit.Who {
	w := &audit.Who{Method: audit.TLS, Name: c.name, Address: r.RemoteAddr, Trusted: c.trusted,
		Restricted: c.restricted, Request: requestID(r), Trace: traceOf(r)}
	switch local, ok := r.Context().Value(localUserKey{}).(*localUser); {
	case c.protocol == "tls" && c.cert == nil:
		w.Method = audit.Anonymous
	case c.protocol == "tls":
		w.Certificate = trust.Fingerprint(c.cert)
	case ok:
		w.UID, w.PID, w.Name = &local.uid, &local.pid, local.name()
		fallthrough
	default:
		w.Method, w.Address = audit.Unix, c.address
	}
	return w
}
