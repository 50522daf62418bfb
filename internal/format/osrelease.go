package format

import (
	"bytes"
	"slices"
	"strings"
	"unicode"
)

// systemKeys are what is read of os-release(5).
var systemKeys = []string{"ID", "VERSION_ID", "VERSION_CODENAME", "PRETTY_NAME"}

// maxSystemValue bounds one of them, in bytes. "Debian GNU/Linux 12 (bookworm)" has 30.
const maxSystemValue = 200

// parseOSRelease reads os-release(5): assignments as a shell has them, without
// expansions. The last counts. The values are UTF-8 that can be shown.
func parseOSRelease(b []byte) map[string]string {
	values := map[string]string{}
	for line := range bytes.Lines(b) {
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), "=")
		if ok && slices.Contains(systemKeys, key) {
			values[key] = shown(unquote(value))
		}
	}
	return values
}

// unquote takes the quotes off a word of the shell. A backslash means something before
// few characters, and nothing between single quotes.
func unquote(word string) string {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(word); i++ {
		c := word[i]
		switch {
		case c == quote && quote != 0:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == '\\' && quote != '\'' && i+1 < len(word) && (quote == 0 || strings.IndexByte("\"$`\\", word[i+1]) >= 0):
			i++
			b.WriteByte(word[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// shown leaves out of a text what can't be shown, and what is too long.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > maxSystemValue {
		s = strings.ToValidUTF8(s[:maxSystemValue], "")
	}
	return strings.TrimSpace(s)
}
