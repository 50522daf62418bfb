package server

import (
	"net/http"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestStatusOfDamage: what is damaged is no fault of the server that may pass.
func TestStatusOfDamage(t *testing.T) {
	if got := status(kiln.Errorf(kiln.Integrity, "damaged")); got != http.StatusUnprocessableEntity {
		t.Errorf("%d", got)
	}
	if got := status(kiln.Errorf(kiln.Internal, "a bug")); got != http.StatusInternalServerError {
		t.Errorf("%d", got)
	}
}
