package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/option"
)

// keysHelp lists the keys that a command sets, for its help; "" for one that sets none.
func keysHelp(path string) string {
	switch path {
	case "kiln config set":
		return keyList("Keys of instances and profiles", instanceOptions()) + "\n" + othersHelp() + "\n\n" +
			keyList("Keys of a server", daemon.ServerKeys())
	case "kiln profile set":
		return keyList("Keys", instanceOptions()) + "\n" + othersHelp()
	case "kiln network create", "kiln network set":
		return keyList("Keys", network.Keys())
	case "kiln project create", "kiln project set":
		return keyList("Keys", daemon.ProjectKeys())
	case "kiln storage volume create", "kiln storage volume set":
		return keyList("Keys", daemon.VolumeKeys())
	case "kiln config device add", "kiln profile device add":
		lines := []string{"Types of devices and their keys:"}
		all := instance.DeviceKeys()
		for _, t := range slices.Sorted(maps.Keys(all)) {
			keys := orElse(strings.Join(option.Names(all[t]), ", "), "takes away a device of a profile")
			lines = append(lines, fmt.Sprintf("  %-11s %s", t, keys))
		}
		return strings.Join(lines, "\n")
	}
	return ""
}

// instanceOptions are the keys of instances and profiles that have an effect.
func instanceOptions() []option.Key {
	var keys []option.Key
	for _, k := range instance.Keys() {
		if k.How < instance.Ignored && k.Name != "image." && k.Name != "volatile." {
			keys = append(keys, option.Key{Name: k.Name, Type: k.Type, Help: k.Help})
		}
	}
	return keys
}

// othersHelp says what becomes of the keys of instances that have none.
func othersHelp() string {
	ignored := 0
	for _, k := range instance.Keys() {
		if k.How == instance.Ignored {
			ignored++
		}
	}
	return fmt.Sprintf("%d others, of LXD and Incus, are taken with a warning and change nothing; the rest is refused "+
		"with the reason.", ignored)
}

func keyList(title string, keys []option.Key) string {
	lines := []string{title + ":"}
	for _, k := range keys {
		help := k.Help
		if k.Type.Default != "" {
			help += " (default " + k.Type.Default + ")"
		}
		lines = append(lines, fmt.Sprintf("  %-31s %s", k.Title(), help))
	}
	return strings.Join(lines, "\n")
}
