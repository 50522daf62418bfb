package option

import (
	"slices"
	"testing"
)

func TestTypes(t *testing.T) {
	for name, c := range map[string]struct {
		of           Type
		right, wrong []string
	}{
		"bool":   {Bool(), []string{"true", "no", "1"}, []string{"maybe", "2"}},
		"number": {Number("n"), []string{"0", "17"}, []string{"-1", "x", "99999999999"}},
		"up to":  {UpTo(10, "n"), []string{"0", "10"}, []string{"11", "-1", "1.5"}},
		"one of": {OneOf("a", "b"), []string{"a", "b"}, []string{"c", "A"}},
		"size":   {Size(), []string{"10MiB", "5"}, []string{"many"}},
		"text":   {Text("text"), []string{"anything"}, nil},
	} {
		k := Key{Type: c.of.Or("x")}
		for _, v := range append(c.right, "") {
			if err := k.Check(v); err != nil {
				t.Errorf("%s: %q: %v", name, v, err)
			}
		}
		for _, v := range c.wrong {
			if k.Check(v) == nil {
				t.Errorf("%s: %q is taken", name, v)
			}
		}
		if k.Type.Default != "x" || k.Type.Name == "" {
			t.Errorf("%s: %+v", name, k.Type)
		}
	}
}

func TestFind(t *testing.T) {
	keys := []Key{{Name: "user."}, {Name: "a"}, {Name: "user.special"}}
	for name, want := range map[string]string{"a": "a", "user.x": "user.", "user.special": "user.special", "user.": "",
		"b": ""} {
		if k, ok := Find(keys, name); k.Name != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", name, k.Name, ok)
		}
	}
	if got := Names(keys); !slices.Equal(got, []string{"a", "user.special"}) {
		t.Error(got)
	}
	if keys[0].Title() != "user.*" || keys[1].Title() != "a" {
		t.Error(keys[0].Title(), keys[1].Title())
	}
}
