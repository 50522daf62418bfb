package instance

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

func TestSizeOptions(t *testing.T) {
	type m = map[string]string
	for size, want := range map[string]m{
		"": nil, "c2-m4": {"limits.cpu": "2", "limits.memory": "4096MiB"}, "c1": {"limits.cpu": "1"},
		"m0.5":     {"limits.memory": "512MiB"},
		"c0.5-m1":  {"limits.cpu": "1", "limits.cpu.allowance": "50%", "limits.memory": "1024MiB"},
		"t2.micro": {"limits.cpu": "1", "limits.memory": "1024MiB"}, "aws:r5.large": {"limits.cpu": "2",
			"limits.memory": "16384MiB"},
		"c1.5": {"limits.cpu": "2", "limits.cpu.allowance": "150%"},
	} {
		got, err := SizeOptions(size)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %s %v", size, diff, err)
		}
		if err := CheckOptions(got); err != nil {
			t.Errorf("%q: %v", size, err)
		}
	}
	for size, kind := range map[string]kiln.Kind{
		"t2.mega": kiln.Unsupported, "azure:A5": kiln.Unsupported, "c": kiln.Unsupported, "-": kiln.Unsupported,
		"c1m1": kiln.Unsupported, "-m1": kiln.Unsupported, "c1-": kiln.Unsupported, "m1-c1": kiln.Unsupported,
		"c0": kiln.Invalid, "m0": kiln.Invalid, "c0.001-m1": kiln.Invalid, "c-1": kiln.Unsupported,
	} {
		if got, err := SizeOptions(size); kiln.KindOf(err) != kind {
			t.Errorf("%q: %v %v", size, got, err)
		}
	}
}
