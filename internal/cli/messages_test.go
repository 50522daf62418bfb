package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/place"
)

// TestMessages reads the texts of what servers and clients say: each command in one that has to
// name the remote or the project where the user is stands where hints finds it.
func TestMessages(t *testing.T) {
	root := (&app{Resolver: &place.Resolver{}}).root()
	command := regexp.MustCompile(`\bkiln ([a-z -]+)`)
	seen := 0
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if e.IsDir() && (e.Name() == "cli" || path == "../../test" || path == "../../cmd") { // it knows where it is
			return fs.SkipDir
		}
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, text := range texts(file) {
			for _, at := range command.FindAllStringSubmatchIndex(text, -1) {
				c, _, err := root.Find(strings.Fields(text[at[2]:at[3]]))
				if err != nil || c == root || c.HasSubCommands() {
					continue // "kiln has no clusters"
				}
				if words, prefix := missingWords(c, "NAME", "srv", "p"); words == "" && prefix == "" {
					continue
				}
				seen++
				before := text[:at[0]] + "kiln "
				found := hint.FindAllStringIndex(before, -1)
				if (len(found) == 0 || found[len(found)-1][1] != len(before)) && !strings.HasSuffix(before, "as kiln ") {
					t.Errorf("%s: the command isn't where it is looked for: %q", path, text)
				}
			}
		}
		return nil
	})
	if err != nil || seen < 100 {
		t.Errorf("%d commands: %v", seen, err)
	}
}

// texts gives the strings of a file, each as it is put together of constants.
func texts(file *ast.File) (list []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		if text, ok := constant(e); ok {
			list = append(list, text)
			return false
		}
		return true
	})
	return list
}

func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		x, ok := constant(e.X)
		y, also := constant(e.Y)
		return x + y, ok && also && e.Op == token.ADD
	}
	return "", false
}
