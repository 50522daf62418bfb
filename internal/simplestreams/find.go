package simplestreams

import (
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
)

// Find gives the container image that a name stands for: an alias, for the first
// of archs that has it, or for the one other architecture that has it; an alias with
// "/" and any architecture; or the beginning of a fingerprint, which finds older
// versions too. archs are canonical. Of several images with an alias the newest
// version wins, then the first. Errors: NotFound, Ambiguous.
func Find(images []Image, name string, archs []string) (Image, error) {
	best, bestRank := -1, 0
	var elsewhere []Image // the newest of each architecture that isn't asked for
	vm := false
	w := split(name)
	for i, img := range images {
		rank := w.rank(img, archs)
		switch {
		case rank < 0:
		case img.Type != container:
			vm = true
		case rank == unasked:
			same := func(o Image) bool { return o.Architecture == img.Architecture }
			if j := slices.IndexFunc(elsewhere, same); j < 0 {
				elsewhere = append(elsewhere, img)
			} else if img.Version > elsewhere[j].Version {
				elsewhere[j] = img
			}
		case best < 0 || rank < bestRank || rank == bestRank && img.Version > images[best].Version:
			best, bestRank = i, rank
		}
	}
	switch {
	case best >= 0:
		return images[best], nil
	case len(elsewhere) == 1:
		return elsewhere[0], nil
	case len(elsewhere) > 1:
		return Image{}, onlyFor(name, elsewhere)
	case vm:
		return Image{}, onlyVM(name)
	}
	return findPrefix(images, name)
}

// onlyFor is the error for a name that several architectures have, none of which is
// asked for.
func onlyFor(name string, images []Image) error {
	var archs []string
	for _, img := range images {
		archs = append(archs, img.Architecture)
	}
	slices.Sort(archs)
	return kiln.Errorf(kiln.NotFound, "%q exists only for %s; say which, as in %q", name, strings.Join(archs, ", "),
		name+"/"+archs[0])
}

// Names gives, for each of all images of a server, what it can be asked for by: each
// alias with "/" and the architecture in the product's words, and before them the
// aliases alone that Find leads from to this image. So no two images have a name in
// common, and one of another architecture takes no name from those for this.
func Names(images []Image, archs []string) [][]string {
	type slot struct{ alias, kind string }
	best := map[slot]int{}
	several := map[slot]bool{} // other architectures have it, and none that is asked for
	for i, img := range images {
		for _, a := range img.Aliases {
			s := slot{a, img.Type}
			j, ok := best[s]
			if !ok {
				best[s] = i
				continue
			}
			mine, theirs := wanted{plain: a}.rank(img, archs), wanted{plain: a}.rank(images[j], archs)
			if mine == unasked && theirs == unasked && img.Architecture != images[j].Architecture {
				several[s] = true
			}
			if mine < theirs || mine == theirs && img.Version > images[j].Version {
				best[s] = i
			}
		}
	}
	all := make([][]string, len(images))
	for i, img := range images {
		for _, a := range img.Aliases {
			s := slot{a, img.Type}
			if best[s] == i && (!several[s] || slices.Contains(archs, img.Architecture)) {
				all[i] = append(all[i], a)
			}
		}
		for _, a := range img.Aliases {
			all[i] = append(all[i], a+"/"+img.Properties["architecture"])
		}
	}
	return all
}

// unasked is the rank of an alias for an architecture that isn't asked for.
const unasked = 1 << 20

// A wanted is a name that is looked for, in both forms that it can have.
type wanted struct {
	plain       string
	alias, arch string // of "alias/arch"; arch is canonical, and "" if it is none
}

func split(name string) wanted {
	w := wanted{plain: name}
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		w.alias = name[:i]
		w.arch, _ = kiln.ParseArch(name[i+1:])
	}
	return w
}

// rank says how well an image answers to a name: -1 not at all, 0 best. The plain
// form comes first, so that an alias that looks like another's second form stands
// for what it was given to.
func (w wanted) rank(img Image, archs []string) int {
	if slices.Contains(img.Aliases, w.plain) {
		if i := slices.Index(archs, img.Architecture); i >= 0 {
			return i
		}
		return unasked
	}
	if img.Architecture == w.arch && slices.Contains(img.Aliases, w.alias) {
		return len(archs)
	}
	return -1
}

// findPrefix finds an image by the beginning of its fingerprint.
func findPrefix(images []Image, typed string) (Image, error) {
	prefix := strings.ToLower(typed)
	if !kiln.IsPrefix(prefix) {
		return Image{}, unknown(images, typed)
	}
	var found []Image
	var fingerprints []kiln.Fingerprint
	vm, seen := false, map[kiln.Fingerprint]bool{}
	for _, img := range images {
		switch {
		case img.Fingerprint.IsZero() || !strings.HasPrefix(img.Fingerprint.String(), prefix):
		case img.Type != container:
			vm = true
		case !seen[img.Fingerprint]: // products can share an image
			seen[img.Fingerprint] = true
			found, fingerprints = append(found, img), append(fingerprints, img.Fingerprint)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Image{}, kiln.AmbiguousPrefix(typed, fingerprints)
	case vm:
		return Image{}, onlyVM(typed)
	}
	return Image{}, unknown(images, typed)
}

func onlyVM(name string) error {
	return kiln.Errorf(kiln.NotFound, "%q exists only as a virtual machine", name)
}

// unknown is the error for a name that nothing has.
func unknown(images []Image, name string) error {
	var known []string
	for _, img := range images {
		if img.Type == container {
			known = append(known, img.Aliases...)
		}
	}
	slices.Sort(known)
	return kiln.NoImage(name, slices.Compact(known))
}
