package server

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// fields gives the fields of a wire structure to a filter, by the dotted path of
// their JSON names. What is left of a path below a map is one key.
func fields(o any) func(string) []string {
	var tree any
	return func(path string) []string {
		if tree == nil {
			if err := json.Unmarshal(encode(o), &tree); err != nil {
				panic(err) // it was encoded a moment ago
			}
		}
		return find(tree, path)
	}
}

func find(v any, path string) []string {
	switch v := v.(type) {
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, find(e, path)...)
		}
		return all
	case map[string]any:
		if leaf, ok := v[path]; ok {
			return find(leaf, "")
		}
		for at := 0; at < len(path); at++ {
			if path[at] != '.' {
				continue
			}
			if inner, ok := v[path[:at]]; ok {
				if found := find(inner, path[at+1:]); found != nil {
					return found
				}
			}
		}
		return nil
	case nil:
		return nil
	}
	if path != "" {
		return nil
	}
	if f, ok := v.(float64); ok {
		return []string{strconv.FormatFloat(f, 'f', -1, 64)}
	}
	return []string{fmt.Sprint(v)}
}

// imageFields is the same for an image, of which there can be many thousands,
// without the way through JSON for the fields that people ask for.
func imageFields(img kiln.Image) func(string) []string {
	var slow func(string) []string
	return func(path string) []string {
		if key, ok := strings.CutPrefix(path, "properties."); ok {
			if v, ok := img.Properties[key]; ok {
				return []string{v}
			}
			return nil
		}
		switch path {
		case "fingerprint":
			return []string{img.Fingerprint.String()}
		case "architecture":
			return []string{img.Architecture}
		case "type":
			return []string{img.Type}
		case "public":
			return []string{strconv.FormatBool(img.Public)}
		case "cached":
			return []string{strconv.FormatBool(img.Cached)}
		}
		if slow == nil {
			slow = fields(image(img))
		}
		return slow(path)
	}
}
