package api

// ImageKeys are a keys file, which says with which keys images are signed, and its signature, as
// a server has them at /streams/v1/keys.json and keys.json.minisig for everybody (API extension
// kiln_image_keys). docs/reference/signatures.md has the format.
type ImageKeys struct {
	Keys      string `json:"keys" yaml:"keys"`
	Signature string `json:"signature" yaml:"signature"`
}
