package template

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

func TestName(t *testing.T) {
	at := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	for pattern, want := range map[string]string{
		`auto-{{ creation_date|date:"2006-01-02_15-04" }}-%d`: "auto-2024-05-06_07-08-%d",
		`x{% if config %}y{% endif %}`:                        "x",
	} {
		if got, err := Name(t.Context(), pattern, at); got != want || err != nil {
			t.Errorf("%q: %q, %v", pattern, got, err)
		}
	}
	for _, bad := range []string{"{{ ", `{% include "/etc/passwd" %}`, `{% for i in "` + strings.Repeat("x", 5000) + `" %}{% for j in "` + strings.Repeat("x", 5000) + `" %}y{% endfor %}{% endfor %}`} {
		if _, err := Name(t.Context(), bad, at); !errors.Is(err, kiln.Invalid) && !errors.Is(err, kiln.TooLarge) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}
