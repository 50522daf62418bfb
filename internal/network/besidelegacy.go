package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// legacyTime is how long a program of iptables-legacy may take: another one may hold
// its lock.
const legacyTime = 10 * time.Second

// legacySet is the table "filter" that the kernel had before nftables. Only its own
// programs can change it.
type legacySet struct {
	program string // "iptables-legacy" or "ip6tables-legacy"
	all     map[string]*chain
	lines   map[mark][]string // rules of ours, as the program writes them
}

// legacyNames gives the tables that were ever used since the host started.
func legacyNames(six bool) []string {
	path := "/proc/net/ip_tables_names"
	if six {
		path = "/proc/net/ip6_tables_names"
	}
	b, _ := os.ReadFile(path) // absent: there is no such kernel any more
	return strings.Fields(string(b))
}

func legacySets() ([]foreignSet, error) {
	var sets []foreignSet
	var errs []error
	for _, six := range []bool{false, true} {
		if !slices.Contains(legacyNames(six), "filter") { // to ask the program would make it
			continue
		}
		program := "iptables-legacy"
		if six {
			program = "ip6tables-legacy"
		}
		s, err := readLegacy(program)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			continue // nobody has changed it
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sets = append(sets, foreignSet{ruleSet: s, name: program, four: !six, six: six})
	}
	return sets, errors.Join(errs...)
}

func readLegacy(program string) (legacySet, error) {
	out, err := runLegacy(program+"-save", nil, "-t", "filter")
	if err != nil {
		return legacySet{}, err
	}
	s := parseLegacy(string(out))
	s.program = program
	return s, nil
}

// parseLegacy reads what iptables-save writes, see iptables-save(8) and its source.
func parseLegacy(text string) legacySet {
	s := legacySet{all: map[string]*chain{}, lines: map[mark][]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, ":") && len(f) >= 2:
			c := &chain{drops: f[1] == "DROP"}
			switch name := f[0][1:]; name {
			case "FORWARD":
				c.hook = hookForward
			case "INPUT":
				c.hook = hookInput
			}
			s.all[f[0][1:]] = c
		case len(f) > 2 && f[0] == "-A" && s.all[f[1]] != nil:
			c := s.all[f[1]]
			for i, word := range f[:len(f)-1] {
				if word == "-j" || word == "-g" {
					c.jumps = append(c.jumps, f[i+1])
				}
			}
			if _, rest, ok := strings.Cut(line, ` --comment "kiln `); ok {
				comment, _, _ := strings.Cut("kiln "+rest, `"`)
				c.ours = append(c.ours, comment)
				m := mark{f[1], comment}
				s.lines[m] = append(s.lines[m], strings.TrimPrefix(line, "-A "))
			}
		}
	}
	return s
}

func (s legacySet) chains() map[string]*chain { return s.all }

func (s legacySet) replace(remove []mark, add []opening) error {
	var b bytes.Buffer
	b.WriteString("*filter\n")
	for _, m := range remove {
		for _, line := range s.lines[m] {
			fmt.Fprintf(&b, "-D %s\n", line)
		}
		s.lines[m] = nil
	}
	for _, o := range add {
		fmt.Fprintf(&b, "-I %s 1%s -m comment --comment \"%s\" -j ACCEPT\n", o.chain, o.legacy(), o.comment)
	}
	b.WriteString("COMMIT\n")
	_, err := runLegacy(s.program+"-restore", b.Bytes(), "--noflush", "-w", "5")
	return err
}

// legacy is what a rule compares, as the program wants it.
func (o opening) legacy() string {
	var b strings.Builder
	if o.in != "" {
		b.WriteString(" -i " + o.in)
	}
	if o.out != "" {
		b.WriteString(" -o " + o.out)
	}
	if o.protocol != 0 {
		fmt.Fprintf(&b, " -p %d", o.protocol)
	}
	if o.port != 0 {
		fmt.Fprintf(&b, " --dport %d", o.port)
	}
	switch o.only {
	case ctAnswers:
		b.WriteString(" -m conntrack --ctstate RELATED,ESTABLISHED")
	case ctForwarded:
		b.WriteString(" -m conntrack --ctstate DNAT")
	}
	return b.String()
}

func runLegacy(program string, input []byte, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), legacyTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = bytes.NewReader(input)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w %s", program, err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}
