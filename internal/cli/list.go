package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) listCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list [<remote>:] [<filter>...]", Short: "List instances",
		Long: "List instances. A filter is a part of a name, or key=value: a field (status, architecture, type …) or a " +
			"configuration key. outdated=true is for instances whose image has another version now, which kiln rebuild " +
			"takes.",
	}
	letters := columnsFlag(c, "ns46tS", instanceColumns(), "; KEY, config:KEY or devices:DEVICE.KEY[:TITLE[:WIDTH]]: a "+
		"configuration key")
	fast := c.Flags().Bool("fast", false, "the columns nsacPt")
	_ = c.Flags().MarkHidden("fast") // lxc has it
	form := formatFlag(c)
	a.allProjectsFlag(c)
	c.RunE = func(c *cobra.Command, words []string) error {
		if *fast && !c.Flags().Changed("columns") {
			*letters = "nsacPt"
		}
		if a.AllProjects && !c.Flags().Changed("columns") {
			*letters = "e" + *letters
		}
		columns, err := choose(instanceColumns(), *letters, instanceKey)
		if err != nil {
			return err
		}
		if err := checkFilters(words); err != nil {
			return err
		}
		at, words, err := a.Filtered(words)
		if err != nil {
			return err
		}
		all, err := client.List[api.InstanceFull](c.Context(), at.Client, "/1.0/instances", 2)
		if err != nil {
			return err
		}
		var newer map[string]string
		if slices.ContainsFunc(columns, func(c column[api.InstanceFull]) bool { return c.letter == 'o' }) ||
			slices.ContainsFunc(words, isOutdated) {
			if newer, err = newerImages(c.Context(), at.Client); err != nil {
				return err
			}
			columns = withNewer(columns, newer)
		}
		all = slices.DeleteFunc(all, func(i api.InstanceFull) bool {
			return slices.ContainsFunc(words, func(w string) bool { return !instanceMatches(i, w, outdated(i, newer)) })
		})
		if err := show(a, *form, columns, all); err != nil {
			return err
		}
		for _, i := range all {
			if i.Problem != "" {
				a.remark("Warning: instance %q: %s", i.Name, i.Problem)
			}
		}
		return nil
	}
	return c
}

// memoryShare gives what an instance has of the memory that it may have, in percent.
func memoryShare(i api.InstanceFull) string {
	most, err := kiln.ParseSize(i.ExpandedConfig["limits.memory"])
	if err != nil || most == 0 || i.State.Memory.Usage == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f%%", 100*float64(i.State.Memory.Usage)/float64(most))
}

// isOutdated reports whether a filter is by the versions of images.
func isOutdated(word string) bool { return strings.HasPrefix(word, "outdated=") }

// instanceKey is a column with a key of the configuration or of a device.
func instanceKey(kind, key string) func(api.InstanceFull) string {
	switch kind {
	case "properties":
		return nil
	case "devices":
		device, key, _ := strings.Cut(key, ".")
		return func(i api.InstanceFull) string { return i.ExpandedDevices[device][key] }
	}
	return func(i api.InstanceFull) string { return i.ExpandedConfig[key] }
}

// instanceFields are the fields of instances that filters know, besides keys of the
// configuration, which all have a dot.
func instanceFields() map[string]func(api.InstanceFull) []string {
	one := func(get func(api.InstanceFull) string) func(api.InstanceFull) []string {
		return func(i api.InstanceFull) []string { return []string{get(i)} }
	}
	status := one(func(i api.InstanceFull) string { return i.Status })
	return map[string]func(api.InstanceFull) []string{
		"name": one(func(i api.InstanceFull) string { return i.Name }), "status": status, "state": status,
		"type":         one(func(i api.InstanceFull) string { return i.Type }),
		"architecture": one(func(i api.InstanceFull) string { return i.Architecture }),
		"description":  one(func(i api.InstanceFull) string { return i.Description }),
		"project":      one(func(i api.InstanceFull) string { return i.Project }),
		"ephemeral":    func(i api.InstanceFull) []string { return []string{fmt.Sprint(i.Ephemeral), yesNo(i.Ephemeral)} },
		"profiles":     func(i api.InstanceFull) []string { return i.Profiles },
	}
}

// checkFilters refuses filters by a field that instances don't have.
func checkFilters(words []string) error {
	known := append(slices.Sorted(maps.Keys(instanceFields())), "outdated")
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if isOutdated(w) && !slices.Contains([]string{"true", "false", "yes", "no"}, strings.ToLower(value)) {
			return usageError{fmt.Errorf("outdated=%s: it is outdated=true or outdated=false", value)}
		}
		if ok && !strings.Contains(key, ".") && !slices.Contains(known, key) {
			return usageError{fmt.Errorf("unknown field %q%s; a filter is part of a name, <field>=<value> with %s, or "+
				"<configuration key>=<value>", key, kiln.DidYouMean(key, known), alternatives(known))}
		}
	}
	return nil
}

func instanceMatches(i api.InstanceFull, word string, outdated bool) bool {
	key, value, ok := strings.Cut(word, "=")
	if isOutdated(word) {
		return fits(fmt.Sprint(outdated), value) || fits(yesNo(outdated), value)
	}
	if !ok {
		return strings.Contains(i.Name, word) || fits(i.Name, word)
	}
	if get, ok := instanceFields()[key]; ok {
		return slices.ContainsFunc(get(i), func(v string) bool {
			return fits(v, value) || key == "architecture" && sameArch(v, value)
		})
	}
	for k, v := range i.ExpandedConfig {
		if keyFits(k, strings.TrimPrefix(key, "config.")) && fits(v, value) {
			return true
		}
	}
	return false
}

func instanceColumns() []column[api.InstanceFull] {
	type full = api.InstanceFull
	addresses := func(family string) func(full) []string {
		return func(i full) []string {
			var list []string
			for name, n := range i.State.Network {
				for _, a := range n.Addresses {
					if a.Family == family && a.Scope == "global" {
						list = append(list, fmt.Sprintf("%s (%s)", a.Address, name))
					}
				}
			}
			slices.Sort(list)
			return list
		}
	}
	number := func(get func(full) int64) func(full) string {
		return func(i full) string {
			if n := get(i); n > 0 {
				return fmt.Sprint(n)
			}
			return ""
		}
	}
	used := func(n int64) int64 { // nothing is known of it, rather than that it is nothing
		if n == 0 {
			return -1
		}
		return n
	}
	return []column[full]{
		col('n', "NAME", func(i full) string { return i.Name }),
		col('s', "STATE", func(i full) string { return strings.ToUpper(i.Status) }),
		colList('4', "IPV4", addresses("inet")),
		colList('6', "IPV6", addresses("inet6")),
		col('t', "TYPE", func(i full) string { return strings.ToUpper(i.Type) }),
		col('S', "SNAPSHOTS", func(i full) string { return fmt.Sprint(len(i.Snapshots)) }),
		col('L', "LOCATION", func(i full) string { return i.Location }),
		col('a', "ARCHITECTURE", func(i full) string { return i.Architecture }),
		col('b', "STORAGE POOL", func(full) string { return "default" }),
		col('c', "CREATED AT", func(i full) string { return minute(i.CreatedAt) }),
		col('d', "DESCRIPTION", func(i full) string { return i.Description }),
		colBytes('D', "DISK USAGE", func(i full) int64 { return used(i.State.Disk["root"].Usage) }),
		col('e', "PROJECT", func(i full) string { return i.Project }),
		col('f', "BASE IMAGE", func(i full) string { fp := i.Config["volatile.base_image"]; return short(fp) }),
		col('F', "BASE IMAGE", func(i full) string { return i.Config["volatile.base_image"] }),
		col('l', "LAST USED AT", func(i full) string { return minute(i.LastUsedAt) }),
		colBytes('m', "MEMORY USAGE", func(i full) int64 { return used(i.State.Memory.Usage) }),
		col('M', "MEMORY USAGE%", memoryShare),
		col('N', "PROCESSES", number(func(i full) int64 { return i.State.Processes })),
		col('o', "IMAGE NOW", func(full) string { return "" }), // withNewer knows
		col('p', "PID", number(func(i full) int64 { return i.State.PID })),
		colList('P', "PROFILES", func(i full) []string { return i.Profiles }),
		col('x', "PROBLEM", func(i full) string { return i.Problem }),
		col('u', "CPU USAGE", func(i full) string { return fmt.Sprintf("%ds", i.State.CPU.Usage/1e9) }),
	}
}
