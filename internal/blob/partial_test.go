package blob

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestResumeCommitted has many go on with a blob at the moment in which it is committed: none
// writes to what is a blob by then, nor takes another's partial file away.
func TestResumeCommitted(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for round := range uint32(60) {
		whole := bytes.Repeat(binary.BigEndian.AppendUint32(nil, round), 1000)
		fp := kiln.Fingerprint(sha256.Sum256(whole))
		w, err := d.Resume(fp, int64(len(whole)))
		if err != nil {
			t.Fatal(err)
		}
		var others sync.WaitGroup
		committed := make(chan struct{})
		for range 8 {
			others.Go(func() {
				for ended := false; !ended; {
					select {
					case <-committed:
						ended = true // once more, since then nothing is committed
					default:
					}
					w, err := d.Resume(fp, 1) // a lie, which has what is there thrown away
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := w.Write([]byte("x")); err != nil {
						t.Error(err)
					}
					w.Discard()
					if err := w.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		if _, err := w.Write(whole); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(fp); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		close(committed)
		others.Wait()
		if b, err := os.ReadFile(d.Path(fp)); err != nil || !bytes.Equal(b, whole) {
			t.Fatalf("round %d: %d bytes of %d are left, %v", round, len(b), len(whole), err)
		}
		if err := d.SweepPartial(0); err != nil {
			t.Fatal(err)
		}
	}
}
