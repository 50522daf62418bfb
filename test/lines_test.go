package test

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestLines keeps lines within 120 characters, a tab counting as one. Literals
// that can't be broken are not counted: raw strings, as of SQL, and test data.
func TestLines(t *testing.T) {
	eachGoFile(t, func(path string, src []byte) {
		free := unbreakable(src, strings.HasSuffix(path, "_test.go"))
		for i, line := range strings.Split(string(src), "\n") {
			if utf8.RuneCountInString(line)-free[i+1] > 120 {
				t.Errorf("%s:%d: %d characters", path, i+1, utf8.RuneCountInString(line))
			}
		}
	})
}

// unbreakable counts the characters of literals that stay in one piece, by line.
func unbreakable(src []byte, all bool) map[int]int {
	count := map[int]int{}
	set := token.NewFileSet()
	file := set.AddFile("", set.Base(), len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, 0)
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return count
		}
		if tok == token.STRING && (all || lit[0] == '`') {
			for i, part := range strings.Split(lit, "\n") {
				count[file.Line(pos)+i] += utf8.RuneCountInString(part)
			}
		}
	}
}

// TestNoTODOContext makes sure that whatever waits can be cancelled.
func TestNoTODOContext(t *testing.T) {
	eachGoFile(t, func(path string, src []byte) {
		if strings.Contains(string(src), "context."+"TODO") {
			t.Errorf("%s: a context that nobody can cancel", path)
		}
	})
}

func eachGoFile(t *testing.T, f func(path string, src []byte)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err == nil {
			f(path, src)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
