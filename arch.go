package kiln

import (
	"debug/elf"
	"strings"
)

// archAliases holds, by canonical name, the other names that metadata files,
// distributions and other tools use for an architecture.
var archAliases = map[string][]string{
	"i686":        {"i386", "i586", "386", "x86", "generic_32"},
	"x86_64":      {"amd64", "generic_64", "x86_64_v1", "x86_64_v2", "x86_64_v3", "x86_64_v4"},
	"armv6l":      {"armel", "arm"},
	"armv7l":      {"armhf", "armhfp", "armv7", "armv7a_hardfp", "armv7a_vfpv3_hardfp"},
	"armv8l":      nil,
	"aarch64":     {"arm64", "arm64_generic"},
	"ppc":         {"powerpc"},
	"ppc64":       {"powerpc64"},
	"ppc64le":     {"ppc64el"},
	"s390x":       nil,
	"mips":        {"mipsel", "mipsle"},
	"mips64":      {"mips64el", "mips64le"},
	"riscv32":     nil,
	"riscv64":     nil,
	"loongarch64": {"loong64"},
}

// personalities lists what else a kernel runs natively.
var personalities = map[string][]string{
	"x86_64":  {"i686"},
	"aarch64": {"armv6l", "armv7l", "armv8l"},
	"armv8l":  {"armv6l", "armv7l"},
	"armv7l":  {"armv6l"},
	"ppc64":   {"ppc"},
	"mips64":  {"mips"},
}

// ParseArch gives the canonical name of an architecture under any of its names.
// The error is Invalid.
func ParseArch(name string) (string, error) {
	lower := strings.ToLower(name)
	for canonical, aliases := range archAliases {
		if canonical == lower {
			return canonical, nil
		}
		for _, a := range aliases {
			if a == lower {
				return canonical, nil
			}
		}
	}
	return "", Errorf(Invalid, "Architecture isn't supported: %q", name)
}

// ArchNames lists the names of a canonical architecture, itself first.
func ArchNames(canonical string) []string {
	return append([]string{canonical}, archAliases[canonical]...)
}

// RunsOn lists the architectures, canonical and best first, whose programs a
// kernel of the given canonical architecture runs.
func RunsOn(host string) []string {
	return append([]string{host}, personalities[host]...)
}

// ELFArch gives the canonical architecture of a program from its ELF header, or
// "" for one that is not in the table.
func ELFArch(machine elf.Machine, class elf.Class, order elf.Data) string {
	wide := class == elf.ELFCLASS64
	switch machine {
	case elf.EM_386:
		return "i686"
	case elf.EM_X86_64:
		return "x86_64"
	case elf.EM_ARM:
		return "armv7l"
	case elf.EM_AARCH64:
		return "aarch64"
	case elf.EM_PPC:
		return "ppc"
	case elf.EM_PPC64:
		if order == elf.ELFDATA2LSB {
			return "ppc64le"
		}
		return "ppc64"
	case elf.EM_S390:
		return "s390x"
	case elf.EM_MIPS:
		if wide {
			return "mips64"
		}
		return "mips"
	case elf.EM_RISCV:
		if wide {
			return "riscv64"
		}
		return "riscv32"
	case elf.EM_LOONGARCH:
		return "loongarch64"
	}
	return ""
}
