package cli

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/openpgp"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/signing"
)

// statementSuffix is after the name of an exported file in that of the file with what was signed
// of its image. The signature is beside that.
const statementSuffix = ".statement"

// statementFiles are the files that lie beside an exported one of an image with a signature, by
// what is after its name; none without a signature.
func statementFiles(signature string) (list []struct{ suffix, content string }, err error) {
	if signature == "" {
		return nil, nil
	}
	s, err := signing.Parse(signature)
	return append(list, []struct{ suffix, content string }{
		{statementSuffix, s.Statement.String() + "\n"},
		{statementSuffix + signing.SignatureSuffix, signature + "\n"}}...), err
}

// proof is what the user says of who signed files that are imported.
type proof struct {
	key        string
	signatures []string
}

func proofFlags(c *cobra.Command) *proof {
	var p proof
	c.Flags().StringVar(&p.key, "key", "", "take the image only if it is signed with this public key, or with that in "+
		"this file: by what lies beside the file (FILE"+statementSuffix+signing.SignatureSuffix+", as kiln image export "+
		"writes it), what the server of a URL tells, or --signature")
	c.Flags().StringArrayVar(&p.signatures, "signature", nil, "file with a signature of the image's file, of minisign "+
		"or OpenPGP (gpg --detach-sign); of two files, each has its own, in the same order")
	return &p
}

// of has files be read only to their last byte if they are what was signed, and an image have the
// statement that lies beside them as its signature. The error is Integrity where the files
// can't be what somebody signed.
func (p *proof) of(ctx context.Context, a *app, files remote.Files, img *kiln.Image) (provenFiles, error) {
	out := provenFiles{Files: files}
	if len(p.signatures) > 0 {
		return out, p.detached(&out)
	}
	text, path, err := besideFiles(files.Paths)
	if err != nil {
		return out, err
	}
	if text == "" && p.key != "" {
		return out, kiln.Errorf(kiln.Integrity, "nothing says that %s is signed: there is no %s beside it, and no "+
			"--signature is given", files.Paths[0], statementSuffix+signing.SignatureSuffix)
	}
	if text == "" {
		return out, nil
	}
	s, err := signing.Parse(text)
	if err == nil && p.key != "" {
		err = p.vouched(ctx, a, s, img.Aliases)
	}
	if err != nil {
		return out, kiln.Errorf(kiln.KindOf(err), "%s: %w", path, err)
	}
	out.statement, out.said, img.Signature = &s, path, text
	return out, nil
}

// vouched says whether a statement is by the key that the user gave, or by one that its owner is
// known to sign with, and of what the image is to be called. The error is Integrity.
func (p *proof) vouched(ctx context.Context, a *app, s signing.Signature, aliases []kiln.Alias) error {
	given, err := proverOf(p.key)
	if err != nil {
		return err
	}
	key, ok := given.(signing.Key)
	if !ok {
		return kiln.Errorf(kiln.Invalid, "it is a signature of minisign, and %s has keys of OpenPGP; name the file with a "+
			"signature by one of these: --signature", p.key)
	}
	by, err := a.Known(ctx, key)
	if err != nil {
		return err
	}
	img := kiln.Image{Fingerprint: s.Fingerprint, Signature: s.Text()}
	err = by.Check(img, "")
	for _, a := range aliases {
		if err == nil {
			err = by.Check(img, a.Name)
		}
	}
	return err
}

// besideFiles gives the signature of a statement that lies beside one of some files, and where;
// "": there is none. Errors: Integrity, Invalid for two that aren't the same.
func besideFiles(paths []string) (text, path string, err error) {
	for _, p := range paths {
		if fi, err := os.Stat(p); err != nil || !fi.Mode().IsRegular() {
			continue // an error is for who reads it to say
		}
		at := p + statementSuffix + signing.SignatureSuffix
		b, err := readSigned(at, signing.MaxDocumentSignature)
		switch {
		case errors.Is(err, kiln.NotFound):
			continue
		case err != nil:
			return "", at, kiln.Errorf(kiln.Integrity, "%w", err)
		}
		one := string(b)
		if n := len(one); n > 0 && one[n-1] == '\n' {
			one = one[:n-1]
		}
		if text != "" && one != text {
			return "", at, kiln.Errorf(kiln.Invalid, "%s and %s are signatures of different images", path, at)
		}
		if text, path = one, at; text == "" {
			return "", at, kiln.Errorf(kiln.Integrity, "%s is empty", at)
		}
	}
	return text, path, nil
}

// detached has each file be what its signature is of.
func (p *proof) detached(to *provenFiles) error {
	if p.key == "" {
		return usageError{errors.New("--signature says nothing without the key of who made it; give that, too: --key")}
	}
	if len(p.signatures) != len(to.Paths) {
		return usageError{fmt.Errorf("there are %d files and %d signatures; each file has one of its own, in the same order",
			len(to.Paths), len(p.signatures))}
	}
	key, err := proverOf(p.key)
	if err != nil {
		return err
	}
	to.proofs = map[string]signing.Proof{}
	for i, path := range to.Paths {
		if fi, err := os.Stat(path); err == nil && fi.IsDir() {
			return usageError{fmt.Errorf("%q is a directory; a signature is of a file", path)}
		}
		sig, err := readSigned(p.signatures[i], openpgp.MaxSignature)
		if err != nil {
			return err
		}
		prove, err := key.Prove(sig)
		if err != nil {
			return kiln.Errorf(kiln.KindOf(err), "%s: %w", p.signatures[i], err)
		}
		to.proofs[path] = provenBy(p.signatures[i], prove)
	}
	return nil
}

// prover is a public key, by which signatures of files are proved.
type prover interface {
	Prove(signature []byte) (signing.Proof, error)
}

// ring is a prover by keys of OpenPGP.
type ring struct{ openpgp.Ring }

func (r ring) Prove(signature []byte) (signing.Proof, error) { return r.Ring.Prove(signature) }

// proverOf reads what a user says of a public key: what place.PublicKey reads, or a file with keys of
// OpenPGP. Errors: NotFound, Invalid.
func proverOf(word string) (prover, error) {
	if _, err := os.Stat(word); err == nil {
		b, err := readSigned(word, openpgp.MaxRing)
		if err == nil && openpgp.Is(b) {
			r, err := openpgp.Parse(b)
			if err != nil {
				err = kiln.Errorf(kiln.KindOf(err), "%s: %w", word, err)
			}
			return ring{r}, err
		}
	}
	key, err := place.PublicKey(word)
	return key, err
}

// provenBy is a proof whose verdict names the file that it is by.
func provenBy(path string, prove signing.Proof) signing.Proof {
	return func(r io.Reader) (io.Reader, func() error) {
		in, verdict := prove(r)
		return in, func() error {
			if err := verdict(); err != nil {
				return kiln.Errorf(kiln.Integrity, "%s: %w; nothing was imported", path, err)
			}
			return nil
		}
	}
}

// provenFiles are files whose last bytes nobody gets who reads them unless they are what was
// signed: so a server that is sent other ones never has a whole image.
type provenFiles struct {
	remote.Files
	statement *signing.Signature // nil: none
	said      string             // the file that it is in
	proofs    map[string]signing.Proof
}

// Open implements kiln.Source.
func (f provenFiles) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	s, err := f.Files.Open(ctx, img)
	if err != nil || f.statement == nil && f.proofs == nil {
		return s, err
	}
	return &provenStream{Stream: s, files: f, sum: sha256.New(), left: len(f.Paths)}, nil
}

// provenStream is the stream of provenFiles.
type provenStream struct {
	kiln.Stream
	files provenFiles
	sum   hash.Hash // of all files
	left  int       // files that didn't begin yet

	in      *bufio.Reader // of the file
	verdict func() error  // of it; nil: it has no signature of its own
	sound   bool          // the end was seen, and all is as it was signed
}

// heldBack is how much of a file is read before the beginning of that is given on.
const heldBack = 256 << 10

// Next implements kiln.Stream.
func (s *provenStream) Next() (kiln.File, error) {
	f, err := s.Stream.Next()
	if err != nil {
		return f, err
	}
	s.left--
	var r io.Reader = io.TeeReader(s.Stream, s.sum)
	s.verdict, s.sound = nil, false
	if p, ok := s.Stream.(interface{ Path() string }); ok && s.files.proofs[p.Path()] != nil {
		r, s.verdict = s.files.proofs[p.Path()](r)
	} else if s.files.proofs != nil {
		return f, kiln.Errorf(kiln.Internal, "no signature was given for the file %q", f.Name)
	}
	s.in = bufio.NewReaderSize(r, heldBack)
	return f, nil
}

// Read implements kiln.Stream.
func (s *provenStream) Read(b []byte) (int, error) {
	if !s.sound {
		ahead, err := s.in.Peek(heldBack)
		switch {
		case err == nil:
			b = b[:min(len(b), len(ahead)-1)]
		case errors.Is(err, io.EOF):
			if err := s.end(); err != nil {
				return 0, err
			}
			s.sound = true
		default:
			return 0, err
		}
	}
	return s.in.Read(b)
}

// end says whether the file, and after the last one the image, is what was signed. The error is
// Integrity.
func (s *provenStream) end() error {
	if s.verdict != nil {
		if err := s.verdict(); err != nil {
			return err
		}
	}
	if s.left > 0 || s.files.statement == nil {
		return nil
	}
	if err := s.files.statement.Of(kiln.Fingerprint(s.sum.Sum(nil))); err != nil {
		return kiln.Errorf(kiln.Integrity, "%s: %w; the files were changed, or the signature isn't theirs: nothing was "+
			"imported", s.files.said, err)
	}
	return nil
}
