package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// manual gives the pages of section 1, by their names: one for each command.
func manual() map[string]string {
	files := map[string]string{}
	var each func(c *cobra.Command)
	each = func(c *cobra.Command) {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		files[name+".1"] = manPage(name, c)
		for _, sub := range visible(c) {
			each(sub)
		}
	}
	each(commands())
	return files
}

func manPage(name string, c *cobra.Command) string {
	var b strings.Builder
	part := func(title, text string) {
		if text = strings.Trim(text, "\n"); text != "" {
			fmt.Fprintf(&b, ".SH %s\n.nf\n%s\n.fi\n", title, roff(text))
		}
	}
	fmt.Fprintf(&b, ".TH %s 1\n.SH NAME\n%s \\- %s\n", roff(strings.ToUpper(name)), roff(name), roff(c.Short))
	part("SYNOPSIS", usageOf(c))
	part("DESCRIPTION", c.Long)
	part("OPTIONS", flagsOf(c))
	part("EXAMPLES", c.Example)
	var below []string
	for _, sub := range visible(c) {
		below = append(below, strings.ReplaceAll(sub.CommandPath(), " ", "-")+"(1)  "+sub.Short)
	}
	part("COMMANDS", strings.Join(below, "\n"))
	return b.String()
}

// roff escapes text, so that a formatter shows it as it is.
func roff(text string) string {
	text = strings.NewReplacer("\\", "\\e", "-", "\\-").Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = "\\&" + l
		}
	}
	return strings.Join(lines, "\n")
}
