package cli

import (
	_ "embed"
	"strings"
)

//go:embed examples.txt
var exampleLines string

// examples are shown in the help of the commands they are of, by path.
func examples() map[string]string {
	all := map[string]string{}
	path := ""
	for line := range strings.Lines(exampleLines) {
		line = strings.TrimSuffix(line, "\n")
		text, example := strings.CutPrefix(line, "  ")
		switch {
		case strings.HasPrefix(line, "#"):
		case !example:
			path = line
		case all[path] == "":
			all[path] = text
		default:
			all[path] += "\n" + text
		}
	}
	return all
}
