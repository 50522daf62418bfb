package cli

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/place"
)

// The groups that the commands are shown in.
const (
	groupInstances = "instances"
	groupBackups   = "backups"
	groupImages    = "images"
	groupConfig    = "config"
	groupServers   = "servers"
	groupDaemon    = "daemon"
	groupOther     = "other"
)

// Command gives the tree of all commands, to be described.
func Command() *cobra.Command { return (&app{Resolver: &place.Resolver{}}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kiln",
		Short: "Manage system containers and their images",
		Long:  "kiln manages images of Linux systems, and runs system containers made from them.",
		Example: "  kiln launch images:debian/12 c1        # download an image, create an instance and start it\n" +
			"  kiln exec c1 -- bash                   # get a shell in it\n" +
			"  kiln snapshot c1 before-upgrade        # and: kiln restore c1 before-upgrade\n" +
			"  kiln publish c1 --alias golden         # create an image from it\n" +
			"  kiln image import debian.tar.zst --alias debian",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.deps.Version,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.Project, "project", os.Getenv("KILN_PROJECT"), "project to use")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "show neither progress nor messages")
	f.BoolVar(&a.debug, "debug", false, "log debug messages (kiln daemon)")
	f.BoolP("verbose", "v", false, "accepted for compatibility with lxc")
	_ = f.MarkHidden("verbose")
	f.BoolVar(&a.ForceLocal, "force-local", false, "use the local daemon, whatever the default remote is")
	group := func(id, title string, commands ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: id, Title: title})
		for _, c := range commands {
			c.GroupID = id
		}
		root.AddCommand(commands...)
	}
	group(groupInstances, "Instances:", a.createCmd("launch"), a.createCmd("init"), a.listCmd(), a.infoCmd(), a.topCmd(),
		a.execCmd(), a.fileCmd(), a.consoleCmd(), a.actionCmd("start", "start"), a.actionCmd("stop", "stop"),
		a.actionCmd("restart", "restart"), a.actionCmd("pause", "freeze"), a.actionCmd("resume", "unfreeze"), a.deleteCmd(),
		a.renameCmd(), a.copyCmd(), a.moveCmd(), a.rebuildCmd())
	group(groupBackups, "Snapshots and backups:", a.snapshotCmd(), a.restoreCmd(), a.exportCmd(), a.importCmd())
	group(groupImages, "Images:", a.imageCmd(), a.publishCmd(), a.keyCmd(), a.mirrorCmd())
	group(groupConfig, "Configuration:", a.configCmd(), a.profileCmd(), a.networkCmd(), a.storageCmd(), a.projectCmd())
	group(groupServers, "Servers:", a.remoteCmd(), a.scrubCmd(), a.operationCmd(), a.warningCmd(), a.doctorCmd(),
		a.monitorCmd(), a.queryCmd())
	group(groupDaemon, "Daemon:", a.daemonCmd(), a.shutdownCmd(), a.waitreadyCmd(), a.adminCmd())
	group(groupOther, "Other commands:", a.versionCmd())
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	addAliases(root)
	addAbsent(root)
	a.prepare(root)
	describeAll(root)
	return root
}

// otherNames are what commands are called as well, in the peers and in the shell, by their names.
func otherNames() map[string][]string {
	return map[string][]string{"list": {"ls"}, "delete": {"rm", "remove"}, "remove": {"rm", "delete"}, "copy": {"cp"},
		"move": {"mv"}, "rename": {"mv"}, "cancel": {"rm", "delete"}, "acknowledge": {"ack"}}
}

// addAliases gives the commands below one their other names, but for those that a command has
// there, or one before it.
func addAliases(c *cobra.Command) {
	taken := map[string]bool{}
	for _, sub := range c.Commands() {
		taken[sub.Name()] = true
	}
	for _, sub := range c.Commands() {
		for _, name := range otherNames()[sub.Name()] {
			if !taken[name] {
				taken[name] = true
				sub.Aliases = append(sub.Aliases, name)
			}
		}
		if sub.Name() == "list" && !c.HasParent() {
			sub.Aliases = append(sub.Aliases, "ps")
		}
		addAliases(sub)
	}
}

// elsewhere are commands of docker and podman, and what does that here.
func elsewhere() map[string]string {
	return map[string]string{
		"attach": "kiln console", "build": "kiln publish, or kiln image import", "commit": "kiln publish",
		"df": "kiln image df", "events": "kiln monitor", "history": "kiln image history", "images": "kiln image list",
		"inspect": "kiln info, or kiln config show", "kill": "kiln stop --force", "load": "kiln image import",
		"login": "kiln remote add", "logs": "kiln console --show-log", "prune": "kiln image prune",
		"pull": "kiln image copy", "push": "kiln image copy", "rmi": "kiln image delete", "run": "kiln launch",
		"save": "kiln image export", "stats": "kiln top", "tag": "kiln image alias create", "unpause": "kiln resume",
		"update": "kiln config set", "volume": "kiln storage volume",
	}
}

// absentCommands are commands of lxc and incus for what kiln doesn't do, by their paths.
func absentCommands() map[string]string {
	pool := "there is one storage pool, \"default\": the file system of the daemon's directory (KILN_DIR), which has no " +
		"configuration; for volumes: kiln storage volume"
	filtered := "kiln has no network ACLs; bound an instance by keys of its nic, such as security.mac_filtering and " +
		"security.ipv4_filtering, and the host by its firewall"
	all := map[string]string{
		"kiln alias":   "kiln has no aliases of commands; make one in your shell: alias kl='kiln list'",
		"kiln cluster": "kiln has no clusters; manage several servers with: kiln remote add",
		"kiln manpage": "kiln has no manual pages; each command has its help: kiln help <command>",
		"kiln shell":   "there is no kiln shell; get one in an instance with: kiln exec <instance> -- bash",

		"kiln network acl":         filtered,
		"kiln network address-set": filtered,
		"kiln network integration": "kiln has no network integrations; its networks are bridges of one host",
		"kiln network load-balancer": "kiln has no load balancers; to lead ports of an address to instances: kiln network " +
			"forward",
		"kiln network peer": "kiln has no network peers; its networks are bridges of one host, which routes between them",
		"kiln network zone": "kiln has no network zones; instances find one another by name on their network (dns.domain)",

		"kiln storage bucket": "kiln has no storage buckets; for directories: kiln storage volume",
	}
	for _, verb := range []string{"create", "delete", "edit", "get", "set", "unset"} {
		all["kiln storage "+verb] = pool
	}
	return all
}

// addAbsent adds, to a command and those below it, commands that say why they aren't there.
func addAbsent(c *cobra.Command) {
	for _, sub := range c.Commands() {
		addAbsent(sub)
	}
	for path, text := range absentCommands() {
		if name, ok := strings.CutPrefix(path, c.CommandPath()+" "); ok && !strings.Contains(name, " ") {
			c.AddCommand(&cobra.Command{Use: name, Hidden: true, DisableFlagParsing: true,
				RunE: func(*cobra.Command, []string) error { return kiln.Errorf(kiln.Unsupported, "%s", text) }})
		}
	}
}

// absentFlags are flags of lxc and incus for what kiln doesn't do, and why.
func absentFlags() map[string]string {
	return map[string]string{
		"target":   "kiln has no clusters, and each server is a remote: name it before the object, as in <remote>:<instance>",
		"stateful": "kiln keeps the files of an instance, not its memory",
		"console":  "a console is shown from the start of an instance on; to see it stop: kiln console, in another terminal",
		"refresh":  "it is copied whole, under a name that is free",

		"destination-target": "kiln has no clusters, and each server is a remote",

		"vm":     "kiln runs system containers, not virtual machines",
		"domain": "kiln signs in with certificates only",
	}
}

// onlyGroup marks a command that does nothing itself.
const onlyGroup = "group"

// prepare makes every command answer mistakes in the same way: with the exit code
// of usage errors, and a suggestion. It completes every command's arguments by its
// usage.
func (a *app) prepare(c *cobra.Command) {
	if c.RunE != nil && !c.Hidden && c.HasParent() {
		c.ValidArgsFunction = a.complete
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		hint := ""
		if _, name, ok := strings.Cut(err.Error(), "unknown flag: --"); ok {
			if text, ok := absentFlags()[strings.Fields(name)[0]]; ok {
				return kiln.Errorf(kiln.Unsupported, "%s; leave --%s out", text, strings.Fields(name)[0])
			}
			var names []string
			c.Flags().VisitAll(func(f *flag) {
				if !f.Hidden {
					names = append(names, f.Name)
				}
			})
			hint = kiln.DidYouMean(strings.Fields(name)[0], names)
		}
		if wrong := new(pflag.InvalidValueError); errors.As(err, &wrong) && wrong.GetFlag().Value.Type() == "int" {
			err = fmt.Errorf("--%s %q is not a whole number", wrong.GetFlag().Name, wrong.GetValue())
		}
		return usageError{fmt.Errorf("%w%s; see: %s --help", err, hint, c.CommandPath())}
	})
	if c.HasSubCommands() && c.RunE == nil {
		c.Annotations = map[string]string{onlyGroup: "true"}
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			var names []string
			for _, sub := range c.Commands() {
				if !sub.Hidden {
					names = append(append(names, sub.Name()), sub.Aliases...)
				}
			}
			if here := elsewhere()[args[0]]; here != "" && !c.HasParent() {
				return usageError{fmt.Errorf("unknown command %q for \"kiln\"; use: %s", args[0], here)}
			}
			return usageError{fmt.Errorf("unknown command %q for %q%s; see: %s --help", args[0], c.CommandPath(),
				kiln.DidYouMean(args[0], names), c.CommandPath())}
		}
		c.Args = cobra.ArbitraryArgs
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if check(c, args) == nil {
				return nil
			}
			return usageError{fmt.Errorf("%s; usage: %s", wrongArguments(c.Use, args), c.UseLine())}
		}
	}
	for _, sub := range c.Commands() {
		a.prepare(sub)
	}
}

// trailing is what wrapping leaves at the end of lines.
var trailing = regexp.MustCompile(`(?m) +$`)

// helpWidth is how wide help is, in characters.
const helpWidth = 96

// describeAll completes the help of all commands: examples, and lines that fit.
func describeAll(root *cobra.Command) {
	all := examples()
	root.SetUsageTemplate(strings.NewReplacer(
		"Flags.FlagUsages ", fmt.Sprintf("Flags.FlagUsagesWrapped %d ", helpWidth),
		"{{if .Runnable}}", `{{if and .Runnable (not (index .Annotations "`+onlyGroup+`"))}}`,
	).Replace(root.UsageTemplate()))
	var each func(c *cobra.Command)
	each = func(c *cobra.Command) {
		if text, ok := all[c.CommandPath()]; ok {
			c.Example = "  " + strings.ReplaceAll(text, "\n", "\n  ")
		}
		c.Long = trailing.ReplaceAllString(text.WrapSoft(orElse(c.Long, c.Short), helpWidth), "")
		if keys := keysHelp(c.CommandPath()); keys != "" {
			c.Long += "\n\n" + keys
		}
		for _, sub := range c.Commands() {
			each(sub)
		}
	}
	each(root)
}

// wrongArguments says which words a command misses, or has too many, by its usage:
// words in brackets may be left out.
func wrongArguments(use string, args []string) string {
	use, _, _ = strings.Cut(use, " | ") // the first way to say it
	words := strings.Fields(use)[1:]
	var needed []string
	for _, w := range words {
		for strings.HasPrefix(w, "[<remote>:]<") { // the rest is what is needed
			w = strings.TrimPrefix(w, "[<remote>:]")
		}
		if strings.HasPrefix(w, "<") {
			name, _, _ := strings.Cut(w, ">")
			needed = append(needed, name+">")
		}
	}
	if len(args) < len(needed) {
		missing := needed[len(args):]
		if len(missing) == 1 {
			return "missing argument: " + missing[0]
		}
		return "missing arguments: " + strings.Join(missing, " ")
	}
	most := slices.IndexFunc(words, func(w string) bool { return w == "[flags]" })
	if most < 0 {
		most = len(words)
	}
	if len(args) > most {
		return fmt.Sprintf("unexpected argument %q", args[most])
	}
	return "wrong number of arguments"
}
