package format

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestDates takes the first and the last second that a date of an image may be, and
// nothing beyond them.
func TestDates(t *testing.T) {
	const last = 253402300799 // 9999-12-31T23:59:59Z
	for text, ok := range map[string]bool{
		"creation_date: 1": true, "creation_date: 0": false, "creation_date: -1": false,
		fmt.Sprint("creation_date: ", last): true, fmt.Sprint("creation_date: ", last+1): false,
		"creation_date: 1\nexpiry_date: 0": true, "creation_date: 1\nexpiry_date: -1": false,
		fmt.Sprint("creation_date: 1\nexpiry_date: ", last):   true,
		fmt.Sprint("creation_date: 1\nexpiry_date: ", last+1): false,
	} {
		m, err := ParseMetadata([]byte("architecture: x86_64\n" + text + "\n"))
		if (err == nil) != ok || err != nil && !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil && (m.Created().Year() > 9999 || m.Expires().Year() > 9999) {
			t.Errorf("%q: %v, %v", text, m.Created(), m.Expires())
		}
	}
}

// TestLargeMetadata has a metadata.yaml that is as large as it may be, and one byte
// larger.
func TestLargeMetadata(t *testing.T) {
	for size, ok := range map[int]bool{MaxMetadata: true, MaxMetadata + 1: false} {
		body := formattest.Metadata + "#" + strings.Repeat("x", size-len(formattest.Metadata)-2) + "\n"
		b := formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: body}, formattest.File{Name: "rootfs/",
			Type: '5', Mode: 0o755})
		f, err := os.Open(formattest.Write(t, "f", b))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Inspect(t.Context(), bytes.NewReader(b), f, archive.Limits{})
		f.Close()
		if (err == nil) != ok || err != nil && !errors.Is(err, kiln.Invalid) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
