package instance

import (
	"errors"
	"fmt"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

// filesOfInstance names the instance in an error of its volume. That the volume isn't
// there is damage: its row is.
func filesOfInstance(name string, err error) error {
	return wrongFiles(fmt.Sprintf("files of instance %q", name), err)
}

// filesOfSnapshot is filesOfInstance for a snapshot.
func filesOfSnapshot(instance, name string, err error) error {
	return wrongFiles(fmt.Sprintf("files of snapshot %s/%s", instance, name), err)
}

func wrongFiles(what string, err error) error {
	if err == nil {
		return nil
	}
	kind := kiln.KindOf(err)
	var damage *volume.Damage
	if kind != kiln.NotFound && !errors.As(err, &damage) {
		return kiln.Errorf(kind, "%s: %w", what, err)
	}
	return kiln.Errorf(kiln.Integrity, "%s: %w; bring that back from a backup of the host, or stop the daemon and see "+
		"what can be brought back without: kiln admin recover", what, err)
}
