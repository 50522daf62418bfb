package cli

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// hints finds the commands that messages name. A server that names one doesn't know what it
// is called where the user is, nor of which project.
type hints struct{ root *cobra.Command }

// hint is where a command begins that is to be typed: at the start of a line, after a colon, in
// brackets or quotes, in a list, or after "or" and "see". Elsewhere in a sentence its next word may
// be none of the command. What is sent between servers and clients is text, so this is all that
// tells a command; a test reads all messages.
var hint = regexp.MustCompile(`(^|[:,;] |\(|"|\n|\b(?:or|and|see|then|run|use|with) )kiln `)

// retell has the commands in a text name a remote, and a project.
func (h hints) retell(text, remote, project string) string {
	if remote == "" && project == "" {
		return text
	}
	var b strings.Builder
	for {
		at := hint.FindStringIndex(text)
		if at == nil {
			return b.String() + text
		}
		b.WriteString(text[:at[1]])
		text = h.command(&b, text[at[1]:], remote, project)
	}
}

// command writes the name of a command, and what it lacks, and gives the rest of the text.
func (h hints) command(b *strings.Builder, text, remote, project string) (rest string) {
	c, more := h.root, true // more: words of it follow
	for more {
		word, after := nextWord(text)
		i := slices.IndexFunc(c.Commands(), func(sub *cobra.Command) bool { return sub.Name() == word || sub.HasAlias(word) })
		if i < 0 {
			break
		}
		c = c.Commands()[i]
		b.WriteString(word)
		if text, more = strings.CutPrefix(after, " "); more {
			b.WriteString(" ")
		}
	}
	if c == h.root || c.HasSubCommands() && c.RunE == nil {
		return text
	}
	first := ""
	if more {
		first, _ = nextWord(text)
	}
	add, prefix := missingWords(c, first, remote, project)
	switch {
	case add != "" && more:
		b.WriteString(add + " ")
	case add != "":
		b.WriteString(" " + add)
	}
	if use := strings.Fields(c.Use); prefix != "" && len(use) > 2 && strings.Contains(use[2], "[<remote>:]<") {
		after := strings.TrimPrefix(text, first+" ") // what a copy is to be is on the same server
		if second, _ := nextWord(after); after != text && second != "" && !strings.ContainsAny(second[:1], "-:") {
			text = first + " " + prefix + after
		}
	}
	return prefix + text
}

// missingWords gives what a command lacks that has first as its first argument, or "": words
// of its own, and what comes before that argument.
func missingWords(c *cobra.Command, first, remote, project string) (words, prefix string) {
	var add []string
	if project != "" && inProject(c) {
		add = append(add, "--project "+project)
	}
	_, use, _ := strings.Cut(c.Use, " ")
	use, _, _ = strings.Cut(use, " ")
	switch {
	case remote == "" || strings.HasPrefix(first, remote+":") || c.CommandPath() == "kiln config trust add":
		// It is said, or nobody else may do it than who is there.
	case use == "[<remote>:]":
		add = append(add, remote+":")
	case strings.HasPrefix(use, "[[<remote>:]<") && strings.ContainsAny(first, ".=") && !strings.HasPrefix(first, "<"):
		add = append(add, remote+":") // a key: it is of the server
	case strings.Contains(use, "[<remote>:]<") && first != "" && !strings.HasPrefix(first, "-"):
		prefix = remote + ":"
	}
	return strings.Join(add, " "), prefix
}

// inProject reports whether a command is about what projects have.
func inProject(c *cobra.Command) bool {
	path := strings.Fields(c.CommandPath())
	if len(path) > 2 && path[1] == "config" && path[2] == "trust" {
		return false
	}
	return !slices.Contains([]string{"project", "network", "remote", "mirror", "key", "admin", "daemon", "doctor",
		"shutdown", "scrub", "waitready", "version", "monitor", "warning", "operation"}, path[1])
}

// nextWord cuts a word of a command off a text: up to white space, or what ends a clause.
func nextWord(text string) (word, rest string) {
	end := strings.IndexAny(text, " \n;,)\"")
	if end < 0 {
		end = len(text)
	}
	word = strings.TrimSuffix(text[:end], ".")
	return word, text[len(word):]
}
