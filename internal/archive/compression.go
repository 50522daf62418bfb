package archive

import (
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// Compressions are the algorithms that Compress knows.
var Compressions = []string{"none", "gzip", "zstd", "xz", "bzip2", "lz4", "squashfs"}

// A Compression is an algorithm with the options that people gave, as LXD takes them:
// "xz -9e". They are never part of a command line as they are.
type Compression struct {
	Name       string // one of Compressions
	Level      int    // 0: the algorithm's own
	RSyncable  bool   // gzip starts afresh now and then, so that changes stay small
	Extreme    bool   // xz takes more time
	Compressor string // of squashfs; "": zstd
}

// algorithm is what can be said of one.
type algorithm struct {
	low, high int               // levels; 0, 0: none
	flags     map[string]string // long options, by the short ones and by themselves
	usage     string
}

func algorithms() map[string]algorithm {
	levels := map[string]string{"--fast": "--fast", "--best": "--best"}
	with := func(more ...string) map[string]string {
		m := map[string]string{"--fast": "--fast", "--best": "--best"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	return map[string]algorithm{
		"none": {usage: "no options"},
		"gzip": {1, 9, with("--rsyncable", "--rsyncable", "-n", "", "--no-name", ""),
			"-1 to -9, --fast, --best, --rsyncable"},
		"zstd": {1, 22, map[string]string{"--ultra": "", "--rsyncable": "--rsyncable"},
			"-1 to -22; --rsyncable with -3 only"},
		"xz": {0, 9, with("-e", "--extreme", "--extreme", "--extreme"),
			"-0 to -9, -e, --extreme, --fast, --best"},
		"bzip2": {1, 9, levels, "-1 to -9, --fast, --best"},
		"lz4":   {1, 9, levels, "-1 to -9, --fast, --best"},
		"squashfs": {flags: map[string]string{"-c": "--compressor", "-comp": "--compressor", "--compressor": "--compressor"},
			usage: "-c or --compressor with gzip, xz, lz4 or zstd"},
	}
}

// ParseCompression reads an algorithm with its options. The error is Invalid and says
// what is allowed.
func ParseCompression(text string) (Compression, error) {
	words := strings.Fields(text)
	if len(words) == 0 || !slices.Contains(Compressions, words[0]) {
		return Compression{}, kiln.Errorf(kiln.Invalid, "Invalid compression algorithm %q: it is one of %s", text,
			strings.Join(Compressions, ", "))
	}
	c, a := Compression{Name: words[0]}, algorithms()[words[0]]
	for rest := words[1:]; len(rest) > 0; {
		used := c.option(a, rest)
		if used == 0 {
			return Compression{}, kiln.Errorf(kiln.Invalid, "Invalid compression algorithm %q: option %q; %s takes %s", text,
				rest[0], c.Name, a.usage)
		}
		rest = rest[used:]
	}
	if c.Name == "zstd" && c.RSyncable && !c.Framed() {
		return Compression{}, kiln.Errorf(kiln.Invalid, "Invalid compression algorithm %q: zstd takes %s", text, a.usage)
	}
	return c, nil
}

// Framed reports whether it is zstd as package delta writes it: always at the level
// that the program zstd takes by itself, and fit for rsync.
func (c Compression) Framed() bool { return c.Name == "zstd" && (c.Level == 0 || c.Level == 3) }

// option takes the first option of some words. It gives how many words that had; 0:
// it is no option of the algorithm.
func (c *Compression) option(a algorithm, words []string) (used int) {
	word, value, hasValue := strings.Cut(words[0], "=")
	flag, known := a.flags[word]
	switch {
	case flag == "--compressor":
		used = 1
		if !hasValue && len(words) > 1 {
			value, used = words[1], 2
		}
		if !slices.Contains([]string{"gzip", "xz", "lz4", "zstd"}, value) {
			return 0
		}
		c.Compressor = value
		return used
	case hasValue:
		return 0
	case known:
		c.set(a, flag)
		return 1
	case !strings.HasPrefix(word, "-") || strings.HasPrefix(word, "--") || len(word) < 2:
		return 0
	}
	// Short ones can come together: -9e.
	digits := strings.TrimRight(word[1:], "abcdefghijklmnopqrstuvwxyz")
	for _, letter := range word[1+len(digits):] {
		flag, known := a.flags["-"+string(letter)]
		if !known || flag == "--compressor" {
			return 0
		}
		c.set(a, flag)
	}
	if digits != "" {
		level, err := strconv.Atoi(digits)
		if err != nil || level < a.low || level > a.high || a.high == 0 || digits != strconv.Itoa(level) {
			return 0
		}
		c.Level = level
		if level == 0 {
			c.Level = zeroLevel
		}
	}
	return 1
}

// zeroLevel is level 0 of xz, since Level 0 is none.
const zeroLevel = -1

func (c *Compression) set(a algorithm, flag string) {
	switch flag {
	case "--fast":
		if c.Level = a.low; c.Level == 0 {
			c.Level = zeroLevel
		}
	case "--best":
		c.Level = a.high
	case "--extreme":
		c.Extreme = true
	case "--rsyncable":
		c.RSyncable = true
	}
}
