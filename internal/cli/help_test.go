package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
)

// eachCommand calls f with every command that can be run, but the library's own.
func eachCommand(c *cobra.Command, f func(*cobra.Command)) {
	if c.Name() == "help" || c.Name() == "completion" || c.Hidden {
		return
	}
	if c.HasParent() && !c.HasSubCommands() || c.Name() == "snapshot" {
		f(c)
	}
	for _, sub := range c.Commands() {
		eachCommand(sub, f)
	}
}

func newRoot() *cobra.Command { return Command() }

// Help is in plain words, each text once and short enough for a line.
func TestHelp(t *testing.T) {
	private := regexp.MustCompile(`(?i)\b(nobody vouches|mend|anew|stranger|joinToken|make do|what is known|tell what|keep images)\b`)
	seen := map[string]string{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := c.CommandPath()
		if c.Hidden || c.Name() == "help" || strings.HasPrefix(path, "kiln completion") {
			return
		}
		if n := len([]rune(c.Short)); n == 0 || n > 80 || !unicode.IsUpper([]rune(c.Short)[0]) ||
			strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q, %d characters", path, c.Short, n)
		}
		if c.Example == "" {
			t.Errorf("%s has no example; add one to examples.txt", path)
		}
		if private.MatchString(c.Short + c.Long + c.Example) {
			t.Errorf("%s: %q", path, private.FindString(c.Short+c.Long+c.Example))
		}
		if before, dup := seen[c.Short]; dup && !strings.Contains(path, " device ") && c.Name() != "publish" &&
			c.Name() != "restore" {
			t.Errorf("%s and %s have the same description", path, before)
		}
		seen[c.Short] = path
		c.LocalFlags().VisitAll(func(f *flag) {
			if !f.Hidden && (f.Usage == "" || private.MatchString(f.Usage) || strings.HasSuffix(f.Usage, ".")) {
				t.Errorf("%s --%s: %q", path, f.Name, f.Usage)
			}
		})
		if c.HasParent() && c.Parent() == c.Root() && c.GroupID == "" {
			t.Errorf("%s is in no group", path)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	out := new(strings.Builder)
	root := newRoot()
	root.SetOut(out)
	root.SetArgs([]string{"--help"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "Additional Commands") || strings.Contains(out.String(), "kiln [flags]") {
		t.Errorf("a command is in no group, or one that does nothing looks as if it did:\n%s", out)
	}
	for _, want := range []string{"Instances:", "Snapshots and backups:", "Images:", "Configuration:", "Servers:",
		"Daemon:", "Other commands:", "Examples:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the help", want)
		}
	}
}

// Commands have the names of the peers, of docker and of the shell as well.
func TestOtherNames(t *testing.T) {
	for words, path := range map[string]string{
		"ls": "kiln list", "ps": "kiln list", "rm": "kiln delete", "cp": "kiln copy", "mv": "kiln move", "create": "kiln init",
		"image ls": "kiln image list", "image rm": "kiln image delete", "image remove": "kiln image delete",
		"profile rm": "kiln profile delete", "profile remove": "kiln profile remove", "network rm": "kiln network delete",
		"network mv": "kiln network rename", "storage volume mv": "kiln storage volume move",
		"storage volume rename": "kiln storage volume rename", "storage volume rm": "kiln storage volume delete",
		"config device rm": "kiln config device remove", "remote delete": "kiln remote remove",
		"operation rm": "kiln operation cancel", "warning ack": "kiln warning acknowledge",
	} {
		c, rest, err := newRoot().Find(strings.Fields(words))
		if err != nil || c.CommandPath() != path || len(rest) > 0 {
			t.Errorf("%s is %s: %q, %v", words, c.CommandPath(), rest, err)
		}
	}
	root := newRoot()
	for word, here := range elsewhere() {
		if c, _, err := root.Find([]string{word}); err == nil && c != root {
			t.Errorf("%q is a command: %s", word, c.CommandPath())
		}
		for command := range strings.SplitSeq(here, ", or ") {
			if c, _, err := root.Find(strings.Fields(command)[1:]); err != nil || c.CommandPath() == "kiln" {
				t.Errorf("%s: there is no %q", word, command)
			}
		}
	}
}

// Every verb and every flag is in a test or a transcript.
func TestEverythingIsTested(t *testing.T) {
	var text strings.Builder
	for _, pattern := range []string{"*_test.go", "../../cmd/kiln/*_test.go", "../../cmd/kiln/testdata/script/*.txt",
		"../../test/faults/*_test.go", "../../test/machine/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(b)
		}
	}
	all := text.String()
	eachCommand(newRoot(), func(c *cobra.Command) {
		words := strings.TrimPrefix(c.CommandPath(), "kiln ")
		// Some verbs are one function with one set of flags.
		same := map[string]string{"launch": "init", "init": "launch", "copy": "move", "move": "copy",
			"image publish": "publish", "snapshot create": "snapshot", "snapshot": "snapshot create",
			"snapshot restore": "restore"}[words]
		names := append([]string{c.Name()}, c.Aliases...)
		parent := strings.TrimSuffix(words, c.Name())
		found := false
		for _, n := range names {
			verb := regexp.MustCompile(`\b` + regexp.QuoteMeta(parent+n) + `\b`)
			found = found || verb.MatchString(all)
		}
		if !found {
			t.Errorf("kiln %s is in no test", words)
		}
		c.LocalFlags().VisitAll(func(f *flag) {
			if f.Name == "help" {
				return
			}
			line := `(?m)\b(` + regexp.QuoteMeta(words) + "|" + regexp.QuoteMeta(orElse(same, words)) + `)\b[^\n]*(--` +
				f.Name + `\b`
			if f.Shorthand != "" {
				line += `|\s-[a-zA-Z]?` + f.Shorthand
			}
			if !regexp.MustCompile(line + `)`).MatchString(all) {
				t.Errorf("kiln %s --%s is in no test", words, f.Name)
			}
		})
	})
}

// Examples are commands as they are, with flags and arguments that these take.
func TestExamples(t *testing.T) {
	for path, text := range examples() {
		for line := range strings.SplitSeq(text, "\n") {
			root := newRoot()
			command, _, _ := strings.Cut(line, " #")
			if i := strings.LastIndex(command, "| kiln "); i >= 0 {
				command = command[i+2:]
			}
			command, _, _ = strings.Cut(command, "|")
			command = regexp.MustCompile(` [<>] \S+`).ReplaceAllString(command, "")
			if !strings.Contains(command, "'") {
				command = strings.ReplaceAll(command, `"`, "'")
			}
			words := fields(strings.TrimSpace(command))
			if words[0] != "kiln" {
				t.Errorf("%s: %q isn't a command line of kiln", path, line)
				continue
			}
			c, rest, err := root.Find(execArgs(words[1:]))
			if err == nil {
				err = c.ParseFlags(rest)
			}
			if err == nil {
				err = c.ValidateArgs(c.Flags().Args())
			}
			if err != nil || !c.Runnable() || c.HasSubCommands() && c.Name() != "snapshot" {
				t.Errorf("%s: %q: %v", path, line, err)
			}
		}
		if c, _, err := newRoot().Find(strings.Fields(path)[1:]); err != nil || c.CommandPath() != path {
			t.Errorf("there is no command %q", path)
		}
	}
}
