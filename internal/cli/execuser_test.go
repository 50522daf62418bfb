package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

func TestParseID(t *testing.T) {
	for s, want := range map[string]uint32{"": 0, "0": 0, "33": 33, "4294967294": 4294967294} {
		if got, err := parseID(s); got != want || err != nil {
			t.Errorf("%q: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"4294967295", "4294967296", "-1", "www-data", "1 "} {
		if _, err := parseID(s); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestFindEntry(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nwww-data:x:33:33::/var/www:/bin/false\n"
	f, err := findEntry(passwd, "/etc/passwd", "www-data", 7)
	if err != nil || f[2] != "33" || f[5] != "/var/www" {
		t.Error(f, err)
	}
	if _, err := findEntry(passwd, "/etc/passwd", "www-date", 7); !errors.Is(err, kiln.NotFound) ||
		!strings.Contains(err.Error(), `did you mean "www-data"?`) {
		t.Error(err)
	}
	full := 0
	l := limited{full: func() { full++ }}
	for range 2 {
		if n, err := l.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil || l.Len() != 1<<20 {
			t.Error(n, err, l.Len())
		}
	}
	if full != 1 {
		t.Errorf("full %d times", full)
	}
}
