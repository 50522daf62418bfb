package server

import (
	"maps"
	"net/http"

	"github.com/kiln-containers/kiln/internal/filter"
)

// list answers with URLs or with objects, and lets the request's filter choose.
func list[T any](r *http.Request, all []T, url func(T) string) (any, error) {
	f, err := filter.Parse(r.URL.Query().Get("filter"))
	if err != nil {
		return nil, err
	}
	objects, urls := []T{}, []string{}
	for _, o := range all {
		if !f.Empty() && !f.Match(fields(o)) {
			continue
		}
		objects, urls = append(objects, o), append(urls, url(o))
	}
	if recursion(r) == 0 {
		return urls, nil
	}
	return objects, nil
}

// described is the description of something, or what is wrong with its row: where
// clients of every kind show it.
func described(text, damage string) string {
	if damage == "" {
		return text
	}
	return "damaged: " + damage
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

func orNone(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// merged lays changes over a map; an empty value removes a key.
func merged(m, change map[string]string) map[string]string {
	out := maps.Clone(orEmpty(m))
	maps.Copy(out, change)
	maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
	return out
}
