package test

import (
	"os"
	"path/filepath"
	"regexp"
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

// TestDocs has a transcript run each tutorial and how-to, as a whole or under all of its headings
// that have commands, the index lead to every page, and the README to the index.
func TestDocs(t *testing.T) {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	transcripts := read("../cmd/kiln/testdata/script/howto.txt") + read("../cmd/kiln/testdata/script/docs.txt")
	index := read("../docs/index.md")
	if !strings.Contains(read("../README.md"), "(docs/index.md)") {
		t.Error("README.md has no link to docs/index.md")
	}
	pages, err := filepath.Glob("../docs/*/*.md")
	if err != nil || len(pages) < 20 {
		t.Fatal(pages, err)
	}
	for _, path := range pages {
		page := strings.TrimSuffix(strings.TrimPrefix(path, "../docs/"), ".md")
		if !strings.Contains(index, "("+page+".md)") {
			t.Errorf("docs/index.md has no link to %s", path)
		}
		kind, name := filepath.Split(page)
		if kind != "tutorial/" && kind != "how-to/" || strings.Contains(transcripts, "\nexec sh howto.sh "+page+"\n") {
			continue
		}
		run := "\nexec sh howto.sh " + name
		if strings.Contains(transcripts, run+"\n") {
			continue
		}
		for _, part := range strings.Split(read(path), "\n## ")[1:] {
			heading, text, _ := strings.Cut(part, "\n")
			of := run + " '" + strings.ReplaceAll(heading, "'", ".") + "'\n"
			if strings.Contains(text, "\n    ") && !strings.Contains(transcripts, of) {
				t.Errorf("%s: no transcript runs %q", path, heading)
			}
		}
	}
}

// TestLinks has links between pages of the documentation lead somewhere.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	pages := []string{"../README.md"}
	for _, pattern := range []string{"../docs/*.md", "../docs/*/*.md"} {
		some, err := filepath.Glob(pattern)
		if err != nil || len(some) == 0 {
			t.Fatal(pattern, err)
		}
		pages = append(pages, some...)
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
