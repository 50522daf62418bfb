// Command docs writes what the documentation says of commands, configuration keys and exit
// codes, from the tables that the program itself goes by.
//
// It knows nothing that isn't in these.
package main

import (
	"flag"
	"log"
	"os"
	"path/filepath"
)

func main() {
	dir := flag.String("docs", "docs", "write Markdown into this directory")
	man := flag.String("man", "", "write manual pages into this directory, and nothing else")
	flag.Parse()
	files, into := reference(), *dir
	if *man != "" {
		files, into = manual(), *man
	}
	if err := write(into, files); err != nil {
		log.Fatal(err)
	}
}

// write makes a directory's files be these, and removes pages of commands that are gone.
func write(dir string, files map[string]string) error {
	old, err := filepath.Glob(filepath.Join(dir, commandPages, "*.md"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
