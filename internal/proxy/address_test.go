package proxy_test

import (
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/proxy"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ keys, want string }{ // want: part of the error
		{"listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:8080", ""},
		{"listen=tcp:[::]:80-90,100 connect=tcp:[::1]:8080-8090,1", ""},
		{"listen=tcp:0.0.0.0:80-90 connect=tcp:127.0.0.1:1", ""},
		{"listen=unix:/run/x connect=tcp:127.0.0.1:1 uid=5 mode=0660 bind=instance", ""},
		{"listen=unix:@x connect=unix:/a/b security.uid=7 proxy_protocol=true", ""},
		{"listen=udp:0.0.0.0:53 connect=udp:127.0.0.1:53", ""},
		{"listen=tcp:192.0.2.1:80 connect=tcp:0.0.0.0:80 nat=true", ""},
		{"listen=tcp:0.0.0.0:80", "connect= is missing"},
		{"listen=tcp:localhost:80 connect=tcp:127.0.0.1:1", "names are not looked up"},
		{"listen=tcp:::1:80 connect=tcp:127.0.0.1:1", "brackets"},
		{"listen=tcp:0.0.0.0:0 connect=tcp:127.0.0.1:1", "port from 1"},
		{"listen=tcp:0.0.0.0:90-80 connect=tcp:127.0.0.1:1", "port from 1"},
		{"listen=tcp:0.0.0.0:1-2000 connect=tcp:127.0.0.1:1", "more than 1024"},
		{"listen=tcp:0.0.0.0:5,4-6 connect=tcp:127.0.0.1:1", "twice"},
		{"listen=tcp:0.0.0.0:80-90 connect=tcp:127.0.0.1:1-2", "11 ports and connect 2"},
		{"listen=sctp:0.0.0.0:80 connect=tcp:127.0.0.1:1", "protocol"},
		{"listen=unix:run/x connect=tcp:127.0.0.1:1", "clean absolute path"},
		{"listen=unix:/run/../x connect=tcp:127.0.0.1:1", "clean absolute path"},
		{"listen=unix:@ connect=tcp:127.0.0.1:1", "no name"},
		{"listen=unix:@x connect=tcp:127.0.0.1:1 mode=0600", "mode is for listen=unix:/path"},
		{"listen=udp:0.0.0.0:53 connect=tcp:127.0.0.1:53", "both udp"},
		{"listen=tcp:0.0.0.0:80 connect=tcp:0.0.0.0:80", "no address to connect to"},
		{"listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80 nat=true", "own address"},
		{"listen=tcp:127.0.0.1:80 connect=tcp:0.0.0.0:80 nat=true", "can't be had for 127.0.0.1"},
		{"listen=tcp:0.0.0.0:80 connect=tcp:0.0.0.0:80 nat=true bind=instance", "bind=host"},
		{"listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80 bind=both", "neither host nor instance"},
		{"listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80 security.uid=-1", "number of a user"},
	} {
		keys := map[string]string{}
		for _, f := range strings.Fields(c.keys) {
			k, v, _ := strings.Cut(f, "=")
			keys[k] = v
		}
		_, err := proxy.Parse(keys)
		kind := kiln.KindOf(err)
		if (c.want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), c.want) ||
			kind != kiln.Invalid && kind != kiln.Unsupported) {
			t.Errorf("%s: %v", c.keys, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"tcp:0.0.0.0:80-90,100", "udp:[::1]:5", "unix:@x", "unix:/a", "tcp:[::ffff:1.2.3.4]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := proxy.ParseAddress(s)
		if err != nil {
			return
		}
		if a.Protocol == "unix" {
			if len(a.Path) < 2 || len(a.Path) > 107 {
				t.Errorf("%q has the path %q", s, a.Path)
			}
			return
		}
		if !a.Host.IsValid() || len(a.Ports) == 0 || len(a.Ports) > 1024 {
			t.Errorf("%q is %+v", s, a)
		}
		for i := range a.Ports {
			b, err := proxy.ParseAddress(a.Shown(i))
			if err != nil || b.Host != a.Host || b.Ports[0] != a.Ports[i] {
				t.Errorf("%q shows %q, which is %+v, %v", s, a.Shown(i), b, err)
			}
		}
	})
}
