package kiln

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Nearest gives up to three of the words that look most like typed, the best
// first; none when nothing is near. Of dotted keys, what counts is the part after the
// dots that they have in common: limits.foo isn't near limits.cpu.
func Nearest(typed string, words []string) []string {
	type near struct {
		word     string
		distance int
	}
	var list []near
	for _, w := range words {
		rest, other := afterDots(typed, w)
		if d := editDistance(rest, other); d <= 1+len(rest)/4 && d < max(len(rest), len(other), 1) {
			list = append(list, near{w, d})
		}
	}
	slices.SortFunc(list, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.word, b.word))
	})
	var out []string
	for i := 0; i < len(list) && i < 3; i++ {
		out = append(out, list[i].word)
	}
	return out
}

// afterDots leaves out of two keys the parts at their beginnings that are the same.
func afterDots(a, b string) (string, string) {
	for {
		first, restA, ok := strings.Cut(a, ".")
		second, restB, ok2 := strings.Cut(b, ".")
		if !ok || !ok2 || first != second {
			return a, b
		}
		a, b = restA, restB
	}
}

// DidYouMean ends an error about an unknown word with the nearest known one:
// `; did you mean "x"?`, or nothing.
func DidYouMean(typed string, words []string) string {
	if near := Nearest(typed, words); len(near) > 0 {
		return fmt.Sprintf("; did you mean %q?", near[0])
	}
	return ""
}

// editDistance is Levenshtein's, with the swap of two neighbours as one edit.
func editDistance(a, b string) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
