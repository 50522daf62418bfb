package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFirstBlock has the commands of the README's first block be those of a transcript, in
// that order, but for one that needs the internet.
func TestFirstBlock(t *testing.T) {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, block, _ := strings.Cut(read("../README.md"), "\n## A day with it\n\n")
	block, _, _ = strings.Cut(block, "\n\n")
	transcript := read("../cmd/kiln/testdata/script/readme.txt")
	commands := 0
	for line := range strings.Lines(block) {
		command, comment, _ := strings.Cut(strings.TrimSpace(line), " #")
		if command = strings.TrimSpace(command); strings.Contains(command, "apt-get install") {
			continue
		}
		want := []string{command}
		if _, also, ok := strings.Cut(comment, ": kiln "); ok {
			want = append(want, "kiln "+also)
		}
		for _, w := range want {
			_, rest, ok := strings.Cut(transcript, "\n"+strings.ReplaceAll(w, "=/srv", "=$WORK/srv")+"\n")
			if !ok {
				t.Errorf("not in the transcript, or not there: %s", w)
				continue
			}
			transcript = "\n" + rest
			commands++
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands in:\n%s", commands, block)
	}
}

// TestHowTos has a transcript run each how-to, under all of its headings that have commands or as
// a whole, and the README lead to it.
func TestHowTos(t *testing.T) {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	transcript, readme := read("../cmd/kiln/testdata/script/howto.txt"), read("../README.md")
	files, err := filepath.Glob("../docs/how-to/*.md")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".md")
		if !strings.Contains(readme, "(docs/how-to/"+name+".md)") {
			t.Errorf("README.md has no link to %s", path)
		}
		run := "\nexec sh howto.sh " + name
		if strings.Contains(transcript, run+"\n") {
			continue
		}
		for _, part := range strings.Split(read(path), "\n## ")[1:] {
			heading, text, _ := strings.Cut(part, "\n")
			of := run + " '" + strings.ReplaceAll(heading, "'", ".") + "'\n"
			if strings.Contains(text, "\n    ") && !strings.Contains(transcript, of) {
				t.Errorf("%s: no transcript runs %q", path, heading)
			}
		}
	}
}
