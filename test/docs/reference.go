package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/internal/cli"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/option"
)

// commandPages is where the pages of commands are.
const commandPages = "reference/commands"

const generated = "<!-- Written by \"make docs\" from the code; changes go there. -->\n\n"

// reference gives the files that are made, by their paths in the documentation.
func reference() map[string]string {
	files := map[string]string{
		"reference/configuration.md": configuration(),
		"reference/exit-codes.md":    exitCodes(),
		commandPages + "/index.md":   commandIndex(),
	}
	for _, c := range visible(commands()) {
		files[commandPages+"/"+c.Name()+".md"] = commandPage(c)
	}
	return files
}

// commands gives the tree of all commands, with the defaults of flags that no environment changes.
func commands() *cobra.Command {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "KILN_") {
			os.Unsetenv(name)
		}
	}
	return cli.Command()
}

// visible are the commands below one that people see.
func visible(c *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" {
			list = append(list, sub)
		}
	}
	return list
}

func commandIndex() string {
	var b strings.Builder
	b.WriteString("# Commands\n\n" + generated)
	root := commands()
	for _, g := range root.Groups() {
		var rows [][]string
		for _, c := range visible(root) {
			if c.GroupID == g.ID {
				rows = append(rows, []string{fmt.Sprintf("[kiln %s](%s.md)", c.Name(), c.Name()), c.Short})
			}
		}
		fmt.Fprintf(&b, "## %s\n\n", strings.TrimSuffix(g.Title, ":"))
		b.WriteString(table([]string{"command", ""}, rows) + "\n")
	}
	b.WriteString("Flags of all commands:\n\n" + block(root.PersistentFlags().FlagUsages()))
	return b.String()
}

// commandPage describes a command, and those below it.
func commandPage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s", c.CommandPath(), generated)
	section(&b, c)
	var each func(c *cobra.Command)
	each = func(c *cobra.Command) {
		for _, sub := range visible(c) {
			fmt.Fprintf(&b, "\n## %s\n\n", sub.CommandPath())
			section(&b, sub)
			each(sub)
		}
	}
	each(c)
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func section(b *strings.Builder, c *cobra.Command) {
	b.WriteString(block(c.Long))
	if usage := usageOf(c); usage != "" {
		b.WriteString("\nUsage:\n\n" + block(usage))
	}
	if names := otherNames(c); names != "" {
		b.WriteString("\nAlso: " + names + "\n")
	}
	if flags := flagsOf(c); flags != "" {
		b.WriteString("\nFlags:\n\n" + block(flags))
	}
	if c.Example != "" {
		b.WriteString("\nExamples:\n\n" + block(c.Example))
	}
}

// usageOf is how a command is written; "" for one that only has others below it.
func usageOf(c *cobra.Command) string {
	if c.HasSubCommands() && !strings.Contains(c.Use, " ") {
		return ""
	}
	return c.UseLine()
}

func otherNames(c *cobra.Command) string {
	var names []string
	for _, a := range c.Aliases {
		names = append(names, "`"+c.Parent().CommandPath()+" "+a+"`")
	}
	return strings.Join(names, ", ")
}

func flagsOf(c *cobra.Command) string {
	c.InitDefaultHelpFlag()
	_ = c.Flags().MarkHidden("help") // each has it
	return c.LocalFlags().FlagUsages()
}

// block is text that is shown as it is.
func block(text string) string {
	text = strings.Trim(text, "\n")
	return "```text\n" + text + "\n```\n"
}

// table is one of Markdown.
func table(titles []string, rows [][]string) string {
	line := func(cells []string) string { return "| " + strings.Join(cells, " | ") + " |\n" }
	text := line(titles) + strings.Repeat("|---", len(titles)) + "|\n"
	for _, r := range rows {
		for i := range r {
			r[i] = strings.ReplaceAll(r[i], "|", "\\|")
		}
		text += line(r)
	}
	return text
}

func configuration() string {
	var b strings.Builder
	b.WriteString("# Configuration keys\n\n" + generated)
	keys := func(title, intro, when string, keys []option.Key) {
		titles, rows := []string{"key", "type", "default", "meaning"}, [][]string{}
		if when != "" {
			titles = append(titles, when)
		}
		for _, k := range keys {
			row := []string{"`" + k.Title() + "`", k.Type.Name, k.Type.Default, k.Help}
			if when != "" {
				row = append(row, k.When)
			}
			rows = append(rows, row)
		}
		fmt.Fprintf(&b, "## %s\n\n%s\n\n%s\n", title, intro, table(titles, rows))
	}
	keys("Servers", "Set with `kiln config set KEY=VALUE`; changes take effect at once.", "", daemon.ServerKeys())
	keys("Instances and profiles", "Set with `kiln config set INSTANCE KEY=VALUE` and `kiln profile set PROFILE "+
		"KEY=VALUE`.", "takes effect", instanceKeys())
	b.WriteString("Keys of LXD and Incus that are taken with a warning, and change nothing:\n\n" +
		withoutEffect(instance.Ignored))
	b.WriteString("Keys of LXD and Incus that are refused:\n\n" + withoutEffect(instance.Refused))
	all := instance.DeviceKeys()
	for _, t := range slices.Sorted(maps.Keys(all)) {
		if len(all[t]) == 0 {
			fmt.Fprintf(&b, "## Devices of type %s\n\nIt takes away a device of that name that a profile has.\n\n", t)
			continue
		}
		keys("Devices of type "+t, "Set with `kiln config device add INSTANCE DEVICE "+t+" KEY=VALUE`. What is marked as "+
			"live changes while the device is there; for all else it is taken away and added again.", "for", all[t])
	}
	keys("Networks", "Set with `kiln network set NETWORK KEY=VALUE`; changes take effect at once.", "", network.Keys())
	keys("Storage volumes", "Set with `kiln storage volume set POOL VOLUME KEY=VALUE`; changes take effect at once.", "",
		daemon.VolumeKeys())
	keys("Projects", "Set with `kiln project set PROJECT KEY=VALUE`; changes take effect at once. What begins with "+
		"`restricted.` holds with `restricted=true`.", "", daemon.ProjectKeys())
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// instanceKeys are those of instances that have an effect.
func instanceKeys() []option.Key {
	var list []option.Key
	for _, k := range instance.Keys() {
		when := map[instance.Effect]string{instance.Works: "at once", instance.AtStart: "at the next start"}[k.How]
		if when != "" {
			list = append(list, option.Key{Name: k.Name, Type: k.Type, Help: k.Help, When: when})
		}
	}
	return list
}

func withoutEffect(how instance.Effect) string {
	var rows [][]string
	for _, k := range instance.Keys() {
		if k.How == how {
			rows = append(rows, []string{"`" + option.Key{Name: k.Name}.Title() + "`", k.Help})
		}
	}
	return table([]string{"key", "why"}, rows) + "\n"
}

func exitCodes() string {
	var rows [][]string
	for _, e := range cli.ExitCodes() {
		rows = append(rows, []string{fmt.Sprint(e.Code), e.Meaning})
	}
	return "# Exit codes\n\n" + generated + table([]string{"code", "meaning"}, rows) +
		"\n`kiln exec` ends with the exit code of the command: 127 when it isn't found, 126 when it can't be run, 128 plus " +
		"the signal that ended it.\n"
}
