package volume

import (
	"errors"
	"strconv"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestReceiveDeep takes as many layers as can be mounted, each of them once, and none more.
func TestReceiveDeep(t *testing.T) {
	r := &Receiver{parts: map[string]string{}}
	var layers []string
	for n := range maxLayers + 3 {
		layers = append(layers, "layer"+strconv.Itoa(n))
		r.parts[layers[n]] = "here"
	}
	if err := r.check(kiln.Stack{Layers: layers}); !errors.Is(err, kiln.Invalid) {
		t.Error("one layer too many:", err)
	}
	if err := r.check(kiln.Stack{Layers: layers[1:]}); err != nil {
		t.Error("as many layers as may be:", err)
	}
}
