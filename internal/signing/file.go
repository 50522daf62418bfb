package signing

import (
	"io"

	"aead.dev/minisign"

	"github.com/kiln-containers/kiln"
)

// A Proof reads on from r, and says, once the end of that was read, whether it was what somebody
// signed. The error is Integrity.
type Proof func(r io.Reader) (again io.Reader, verdict func() error)

// Prove gives the proof of a file that lies beside its signature, as minisign writes one. The
// error is Integrity for what is none, or by another key.
func (k Key) Prove(signature []byte) (Proof, error) {
	sig, err := parseDocumentSignature(signature)
	if err != nil {
		return nil, err
	}
	public, err := k.public()
	if err != nil {
		return nil, err
	}
	if sig.keyID != k.ID() {
		return nil, kiln.Errorf(kiln.Integrity, "it is signed with the key %s, not with %s", sig.keyID, k.ID())
	}
	return func(r io.Reader) (io.Reader, func() error) {
		in := minisign.NewReader(r)
		return in, func() error {
			if !in.Verify(public, []byte(sig.text)) {
				return kiln.Errorf(kiln.Integrity, "the file isn't what the key %s has signed", k.ID())
			}
			return nil
		}
	}, nil
}
