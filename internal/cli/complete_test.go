package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestSlots(t *testing.T) {
	for use, want := range map[string]string{
		"info [<remote>:]<image>":                               "image",
		"list [<remote>:] [<filter>...]":                        ": filter ...",
		"delete [<remote>:]<instance>[/<snapshot>]...":          "instance/snapshot ...",
		"copy [<remote>:]<image> <remote>:":                     "image remote",
		"exec [<remote>:]<i> [flags] [--] <command> [<arg>...]": "i command arg ...",
		"console [<remote>:]<instance>":                         "instance",
		"assign <instance> <profile>[,<profile>...]":            "instance profile/profile",
	} {
		all, repeat := slots(use)
		var got []string
		for _, s := range all {
			if s.server {
				got = append(got, ":")
			} else {
				got = append(got, strings.Join(s.kinds, "/"))
			}
		}
		if repeat {
			got = append(got, "...")
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s: %q, want %q", use, g, want)
		}
	}
}

func TestCompletion(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one --alias two os=debian")
	unnamed := s.image("2", "")[:12]
	s.ok("init one c1")
	s.ok("init one c2")
	s.ok("snapshot c1 before")
	s.ok("profile create web")
	s.ok("image copy one b: --mode relay --alias there")
	for words, want := range map[string]string{
		"image info '":                   unnamed + " b: images: local: one two ubuntu-daily: ubuntu:",
		"image info o":                   "one",
		"image info b:":                  "b:there",
		"image info one '":               "",
		"image delete one '":             unnamed + " two",
		"image info " + unnamed[:4]:      unnamed,
		"image copy one '":               "b: local:",
		"image get-property one o":       "os",
		"image alias rename t":           "two",
		"launch o":                       "one",
		"exec '":                         "b: c1 c2 local:",
		"exec c1 '":                      "",
		"start c1 '":                     "c2",
		"delete c1/":                     "c1/before",
		"restore c1 '":                   "before",
		"snapshot delete c1 '":           "before",
		"copy c1 b":                      "b:",
		"config get c1 limits.p":         "limits.processes",
		"config get core.https":          "core.https_address",
		"config set c1 boot.autostart.d": "boot.autostart.delay",
		"config unset images.keep":       "images.keep_versions",
		"profile show w":                 "web",
		"profile assign c1 w":            "web",
		"remote switch b":                "b",
		"remote remove b '":              "",
		"list b":                         "b:",
		"network get kilnbr0 x '":        "",
		"network show '":                 "b: kilnbr0 lo local:",
		"image copy one b: --mode ":      "auto pull push relay",
		"image list --format '":          "compact csv json table yaml",
		"image info one --format '":      "json text yaml",
		"config device remove c1 '":      "",
	} {
		if strings.HasSuffix(words, "'") || strings.HasSuffix(words, " ") {
			words = strings.TrimRight(words, "'") + "''"
		}
		out := s.ok("__complete " + words)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, ":") })
		slices.Sort(lines)
		if got := strings.Join(lines, " "); got != want {
			t.Errorf("%s: %q, want %q", words, got, want)
		}
	}
}
