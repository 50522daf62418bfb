// Package openpgp verifies signatures of OpenPGP (RFC 9580), as gpg(1) makes them, of files. It
// makes none, and doesn't know where keys and signatures come from.
package openpgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/kiln-containers/kiln"
)

// Bounds on what is read.
const (
	MaxRing       = 1 << 20  // bytes of public keys: those of many people have signatures of others
	MaxSignature  = 64 << 10 // bytes of a signature
	mostKeys      = 64
	mostSignature = 8 // of one file, each of which hashes it
)

// armored is what the text of keys and signatures begins with.
const armored = "-----BEGIN PGP "

// Is reports whether a file may have keys of OpenPGP in it.
func Is(file []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(file, " \t\r\n"), []byte(armored)) || len(file) > 0 && file[0]&0x80 != 0
}

// A Ring is public keys, each of which is trusted.
type Ring struct{ keys openpgp.EntityList }

// Parse reads public keys, as gpg --export writes them, with and without --armor. The error is
// Invalid.
func Parse(file []byte) (Ring, error) {
	if len(file) > MaxRing {
		return Ring{}, kiln.Errorf(kiln.Invalid, "the keys have more than %s", kiln.FormatSize(MaxRing))
	}
	in, err := body(file, openpgp.PublicKeyType)
	if err != nil {
		return Ring{}, kiln.Errorf(kiln.Invalid, "it is no public key of OpenPGP: %w", err)
	}
	keys, err := openpgp.ReadKeyRing(in)
	switch {
	case err != nil:
		return Ring{}, kiln.Errorf(kiln.Invalid, "it is no public key of OpenPGP: %w", err)
	case len(keys) == 0:
		return Ring{}, kiln.Errorf(kiln.Invalid, "there is no public key of OpenPGP in it")
	case len(keys) > mostKeys:
		return Ring{}, kiln.Errorf(kiln.Invalid, "there are %d keys in it, and at most %d can be; give only those whose "+
			"signatures count", len(keys), mostKeys)
	}
	for _, k := range keys {
		if k.PrivateKey != nil {
			return Ring{}, kiln.Errorf(kiln.Invalid, "there is a secret key in it; give the public one, which is for "+
				"everybody: gpg --export %s", id(k.PrimaryKey.KeyId))
		}
	}
	return Ring{keys}, nil
}

// body gives what is in a file, which may be armored as something of a type.
func body(file []byte, kind string) (io.Reader, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(file, " \t\r\n"), []byte(armored)) {
		return bytes.NewReader(file), nil
	}
	b, err := armor.Decode(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	if b.Type != kind {
		return nil, fmt.Errorf("it is a %s, and should be a %s", b.Type, kind)
	}
	return b.Body, nil
}

func id(n uint64) string { return fmt.Sprintf("%016X", n) }

// String names the keys, by what gpg calls their ids.
func (r Ring) String() string {
	list := make([]string, len(r.keys))
	for i, k := range r.keys {
		list[i] = id(k.PrimaryKey.KeyId)
	}
	return strings.Join(list, " or ")
}

// Prove gives what reads on from a file, and says, once its end was read, whether the owner of one
// of the keys has made a signature of it, which is detached and given. Errors, also of the verdict,
// are Integrity.
func (r Ring) Prove(signature []byte) (func(io.Reader) (io.Reader, func() error), error) {
	if len(signature) > MaxSignature {
		return nil, kiln.Errorf(kiln.Integrity, "the signature has more than %s", kiln.FormatSize(MaxSignature))
	}
	if _, err := r.read(signature, strings.NewReader("")); err != nil {
		return nil, err
	}
	return func(in io.Reader) (io.Reader, func() error) {
		md, err := r.read(signature, in)
		if err != nil { // it was read before
			return in, func() error { return err }
		}
		return md.UnverifiedBody, func() error { return r.verdict(md) }
	}, nil
}

// read reads a signature of what is yet to be read.
func (r Ring) read(signature []byte, in io.Reader) (*openpgp.MessageDetails, error) {
	sig, err := body(signature, openpgp.SignatureType)
	if err != nil {
		return nil, kiln.Errorf(kiln.Integrity, "it is no signature of OpenPGP: %w", err)
	}
	md, err := openpgp.VerifyDetachedSignatureReader(r.keys, in, sig, &packet.Config{})
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return nil, kiln.Errorf(kiln.Integrity, "it is not signed with the key %s", r)
	case err != nil:
		return nil, kiln.Errorf(kiln.Integrity, "it is no signature of OpenPGP: %w", err)
	case len(md.SignatureCandidates) == 0:
		return nil, kiln.Errorf(kiln.Integrity, "it is no signature of OpenPGP")
	case len(md.SignatureCandidates) > mostSignature:
		return nil, kiln.Errorf(kiln.Integrity, "it has %d signatures, and at most %d can be",
			len(md.SignatureCandidates), mostSignature)
	}
	for _, c := range md.SignatureCandidates {
		if c.SignedByEntity != nil {
			return md, nil
		}
	}
	return nil, kiln.Errorf(kiln.Integrity, "it is signed with the key %s, not with %s",
		id(md.SignatureCandidates[0].IssuerKeyId), r)
}

// verdict is what came of reading all of a file.
func (r Ring) verdict(md *openpgp.MessageDetails) error {
	switch {
	case !md.IsVerified:
		return kiln.Errorf(kiln.Integrity, "the file was not read to its end")
	case errors.Is(md.SignatureError, pgperrors.ErrKeyExpired),
		errors.Is(md.SignatureError, pgperrors.ErrSignatureExpired):
		return kiln.Errorf(kiln.Integrity, "the signature, or the key %s, has expired by this machine's clock (%s): %w", r,
			time.Now().UTC().Format("2006-01-02 15:04 MST"), md.SignatureError)
	case md.SignatureError != nil:
		return kiln.Errorf(kiln.Integrity, "the file isn't what the key %s has signed: %w", r, md.SignatureError)
	case md.Signature == nil || md.Signature.SigType != packet.SigTypeBinary: // of a text, the ends of lines don't count
		return kiln.Errorf(kiln.Integrity, "the signature is of a text, not of a file: make it with gpg --detach-sign, "+
			"without --textmode")
	}
	return nil
}
