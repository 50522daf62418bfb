package api

// ImageKeys are a keys file, which says with which keys images are signed, and its signature, as
// a server has them at /streams/v1/keys.json and keys.json.minisig for everybody (API extension
// kiln_image_keys). docs/reference/signatures.md has the format.
type ImageKeys struct {
	Keys      string `json:"keys" yaml:"keys"`
	Signature string `json:"signature" yaml:"signature"`
}

// IndexKey tells with which key a server signs the index of its public images (API extension
// kiln_image_keys), at /streams/v1/kiln.json.
type IndexKey struct {
	Public string `json:"public" yaml:"public"` // as minisign writes it, in one line
}

// IndexKeyPut gives a server that key. Nobody is told it again.
type IndexKeyPut struct {
	Secret string `json:"secret"`           // a file of minisign with a secret key, without a password
	Pinned bool   `json:"pinned,omitempty"` // it is one that others have pinned, and that is meant
}
