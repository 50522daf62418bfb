package simplestreams

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func indexText(entries ...string) string {
	return `{"format":"index:1.0","updated":"Sat, 21 Nov 2026 01:00:00 +0000","index":{` +
		strings.Join(entries, ",") + `}}`
}

func entryText(name, datatype, path string, products ...string) string {
	return fmt.Sprintf(`%q:{"datatype":%q,"path":%q,"format":"products:1.0","updated":"..","products":[%s]}`, name,
		datatype, path, strings.Join(products, ","))
}

// TestIndex reads what there is to read.
func TestIndex(t *testing.T) {
	for text, want := range map[string][]string{
		indexText(): nil,
		indexText(entryText("images", "image-downloads", "streams/v1/images.json",
			`"a"`)): {"streams/v1/images.json"},
		indexText(entryText("images", "image-downloads",
			"streams/v1/images.json")): nil,
		indexText(entryText("ids", "image-ids", "streams/v1/aws.json",
			`"a"`)): nil,
		indexText(entryText("b", "image-downloads", "b.json", `"a"`), entryText("a", "image-downloads", "a//./x:y.json",
			`5`)): {"b.json", "a/x:y.json"},
		indexText(entryText("b", "image-downloads", "b.json", `"a"`), entryText("a", "image-downloads", "./b.json",
			`"a"`)): {"b.json"},
		indexText(entryText("b", "image-downloads", "b.json", `"a"`), entryText("a", "image-downloads", "//etc/passwd",
			`"a"`)): {"b.json"},
		indexText(entryText("b", "image-downloads", "b.json", `"a"`),
			`"c":5,"d":{"datatype":[]}`): {"b.json"},
		`{"other":[{}],"index":{` + entryText("b", "image-downloads", "b.json", `"a"`) + `}}`: {"b.json"},
		`{"index":null}`: nil,
	} {
		got, err := ParseIndex(strings.NewReader(text))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
}

// TestIndexErrors says what is wrong.
func TestIndexErrors(t *testing.T) {
	var many []string
	for i := range maxLists + 1 {
		many = append(many, entryText("x", "image-downloads", fmt.Sprint(i), `"a"`))
	}
	for text, want := range map[string]string{
		"":                 "ends in the middle",
		"404":              "is not an object",
		"<!DOCTYPE html>":  "not JSON",
		"{}":               "it is no index",
		list():             `it is no index (format "products:1.0")`,
		indexText() + "[]": "more after its end",
		indexText(entryText("x", "image-downloads", "//etc/passwd", `"a"`)):        `"x": path "/etc/passwd" is absolute`,
		indexText(entryText("x", "image-downloads", "https://evil/x.json", `"a"`)): "is absolute",
		indexText(entryText("x", "image-downloads", "../x.json", `"a"`)):           "leads out",
		indexText(`"x":{"datatype":"image-downloads","path":{},"products":["a"]}`): "cannot unmarshal",
		indexText(many...): "more than 256 lists",
	} {
		if got, err := ParseIndex(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200s gives %q, %v; want %q", text, got, err, want)
		}
	}
}
