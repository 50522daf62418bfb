package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/kiln-containers/kiln"
)

// namesAtOnce is how many names are read before they are counted.
const namesAtOnce = 1024

// Names gives the sorted names in a directory, and counts them by visit, which may be nil, until
// forget is called: a container can have as many in one as its disk has room for. The error is
// TooLarge when they are more than most, unless that is zero; others are those of Visit.Add.
func Names(dir *os.File, most int64, visit *Visit) (names []string, forget func(), err error) {
	var counted int64
	forget = func() { _ = visit.Add(-counted) } // of less there is no error
	for {
		more, err := dir.Readdirnames(namesAtOnce)
		var bytes int64
		for _, n := range more {
			bytes += nameSize + int64(len(n))
		}
		counted += bytes
		if err := visit.Add(bytes); err != nil {
			forget()
			return nil, nil, err
		}
		names = append(names, more...)
		if most > 0 && int64(len(names)) > most {
			forget()
			return nil, nil, kiln.Errorf(kiln.TooLarge, "there are more than %d files", most)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			forget()
			return nil, nil, fmt.Errorf("read a directory: %w", err)
		}
	}
	slices.Sort(names)
	return names, forget, nil
}

// nameSize is what a name takes beside its text, in bytes.
const nameSize = 48
