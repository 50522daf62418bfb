package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/project"
)

// A preseed is what LXD and Incus are set up by.
type preseed struct {
	Config       map[string]any   `json:"config" yaml:"config"`
	Networks     []seedNetwork    `json:"networks" yaml:"networks"`
	StoragePools []seedPool       `json:"storage_pools" yaml:"storage_pools"`
	Volumes      []map[string]any `json:"storage_volumes" yaml:"storage_volumes,omitempty"`
	Profiles     []seedProfile    `json:"profiles" yaml:"profiles"`
	Projects     []seedProject    `json:"projects" yaml:"projects,omitempty"`
	Groups       []map[string]any `json:"cluster_groups" yaml:"cluster_groups,omitempty"`
	Cluster      *seedCluster     `json:"cluster" yaml:"cluster,omitempty"`
}

type seedNetwork struct {
	Name        string            `json:"name" yaml:"name"`
	Type        string            `json:"type" yaml:"type"`
	Description string            `json:"description" yaml:"description"`
	Project     string            `json:"project" yaml:"project,omitempty"`
	Config      map[string]string `json:"config" yaml:"config"`
}

type seedPool struct {
	Name        string            `json:"name" yaml:"name"`
	Driver      string            `json:"driver" yaml:"driver"`
	Description string            `json:"description" yaml:"description"`
	Config      map[string]string `json:"config" yaml:"config"`
}

type seedProfile struct {
	Name        string                       `json:"name" yaml:"name"`
	Description string                       `json:"description" yaml:"description"`
	Project     string                       `json:"project" yaml:"project,omitempty"`
	Config      map[string]string            `json:"config" yaml:"config"`
	Devices     map[string]map[string]string `json:"devices" yaml:"devices"`
}

type seedProject struct {
	Name        string            `json:"name" yaml:"name"`
	Description string            `json:"description" yaml:"description"`
	Config      map[string]string `json:"config" yaml:"config"`
}

type seedCluster struct {
	Enabled bool `json:"enabled" yaml:"enabled"`
}

func (a *app) initCmd() *cobra.Command {
	c := &cobra.Command{Use: "init [<remote>:]", Short: "Configure a running server, as \"lxd init\" does",
		Args: cobra.MaximumNArgs(1),
		Long: "Set up a running server as LXD's and Incus's init do. kiln needs none of it: its first start makes a " +
			"network, a storage pool and a profile, and asks nothing. A preseed (--preseed) is read from standard " +
			"input. What it says is laid over what there is; what kiln doesn't have is refused before anything is changed."}
	f := c.Flags()
	auto := f.Bool("auto", false, "change nothing but what other flags say")
	seed := f.Bool("preseed", false, "read a preseed in YAML from standard input")
	dump := f.Bool("dump", false, "show what is set as a preseed")
	address := f.String("network-address", "", "address to listen on")
	port := f.Int("network-port", 8443, "port to listen on")
	c.MarkFlagsMutuallyExclusive("auto", "preseed", "dump")
	c.MarkFlagsMutuallyExclusive("network-address", "preseed")
	c.MarkFlagsMutuallyExclusive("network-address", "dump")
	c.RunE = func(c *cobra.Command, args []string) error {
		if c.Flags().Changed("dir") {
			return usageError{fmt.Errorf("--dir is for what is done to the files of a daemon that doesn't run; init talks to " +
				"one that does: KILN_DIR=DIR kiln admin init")}
		}
		at, err := a.server(args)
		switch {
		case err != nil:
			return err
		case *dump:
			return a.dumpPreseed(c.Context(), at)
		case *seed:
			return a.readPreseed(c.Context(), at)
		case *address != "":
			listen := map[string]any{"core.https_address": net.JoinHostPort(*address, fmt.Sprint(*port))}
			return at.Change(c.Context(), http.MethodPatch, "/1.0", api.ServerPut{Config: listen}, "")
		case !*auto:
			a.say("Nothing to set up: the first start has made a network, a storage pool and a profile")
		}
		return nil
	}
	return c
}

// check refuses what kiln doesn't have, before anything is changed. The warnings say what
// of the rest has no effect.
func (p preseed) check() (warnings []string, err error) {
	if p.Cluster != nil && p.Cluster.Enabled || len(p.Groups) > 0 {
		return nil, kiln.Errorf(kiln.Unsupported, "the preseed makes a cluster, which kiln doesn't have; leave out "+
			"\"cluster\" and \"cluster_groups\"")
	}
	if len(p.Volumes) > 0 {
		return nil, kiln.Errorf(kiln.Unsupported, "the preseed makes storage volumes; make them afterwards, and leave out "+
			"\"storage_volumes\"")
	}
	for _, pool := range p.StoragePools {
		switch {
		case pool.Name != "default":
			return nil, kiln.Errorf(kiln.Unsupported, "the preseed makes the storage pool %q; kiln has one, \"default\": call "+
				"it that, also in profiles", pool.Name)
		case pool.Config["source"] != "":
			return nil, kiln.Errorf(kiln.Unsupported, "the preseed puts the storage pool on %s; kiln's is in its own "+
				"directory: mount that there (KILN_DIR), and leave out \"source\"", pool.Config["source"])
		case pool.Driver != "" && pool.Driver != "overlay":
			warnings = append(warnings, fmt.Sprintf("the storage pool %q is kiln's own, whatever its driver %q and "+
				"configuration are to be", pool.Name, pool.Driver))
		}
	}
	for _, made := range p.Projects {
		if err := made.check(); err != nil {
			return nil, err
		}
	}
	for _, n := range p.Networks {
		if n.Type != "" && n.Type != "bridge" {
			return nil, kiln.Errorf(kiln.Unsupported, "the preseed makes the network %q of type %q; kiln's are bridges", n.Name,
				n.Type)
		}
		if err := named("network", n.Name); err != nil {
			return nil, err
		}
		if n.Project != "" && n.Project != project.Default {
			return nil, kiln.Errorf(kiln.Unsupported, "the preseed makes the network %q in the project %q; in kiln all "+
				"projects have those of the default one: leave \"project\" out", n.Name, n.Project)
		}
	}
	for _, profile := range p.Profiles {
		if err := named("profile", profile.Name); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

func named(noun, name string) error {
	if name == "" {
		return kiln.Errorf(kiln.Invalid, "the preseed has a %s without a name", noun)
	}
	return nil
}

// check refuses a project with what no project of kiln has of its own.
func (p seedProject) check() error {
	if err := named("project", p.Name); err != nil || p.Name == project.Default {
		return err
	}
	if err := kiln.CheckProjectName(p.Name); err != nil {
		return err
	}
	for _, key := range []string{"features.networks", "features.networks.zones", "features.storage.buckets"} {
		if kiln.IsTrue(p.Config[key]) {
			return kiln.Errorf(kiln.Unsupported, "the preseed makes the project %q with %s; no project of kiln has those of "+
				"its own: make it false, or leave it out", p.Name, key)
		}
	}
	return nil
}

// parsePreseed reads a preseed. What has no value is as if it weren't there: the peers'
// dumps have such keys.
func (a *app) parsePreseed() (preseed, error) {
	b, err := readYAML(a.In)
	if err != nil {
		return preseed{}, err
	}
	var keys map[string]any
	if err := yaml.Unmarshal(b, &keys); err != nil {
		return preseed{}, notYAML(err)
	}
	maps.DeleteFunc(keys, func(_ string, v any) bool { return v == nil })
	if len(keys) == 0 {
		return preseed{}, kiln.Errorf(kiln.Invalid, "the preseed on standard input is empty")
	}
	if b, err = yaml.Marshal(keys); err != nil {
		return preseed{}, err
	}
	return parseNew[preseed](b)
}

// readPreseed sets a server up. What was done before an error stays, and may be asked for
// again.
func (a *app) readPreseed(ctx context.Context, at place.Place) error {
	p, err := a.parsePreseed()
	if err != nil {
		return err
	}
	warnings, err := p.check()
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintf(a.Err, "Warning: %s\n", printable(w))
	}
	projects, err := nameList(ctx, at, "/1.0/projects")
	if err != nil {
		return err
	}
	for _, made := range p.Projects {
		if err := a.seedProjectInto(ctx, at, made, slices.Contains(projects, made.Name)); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "project %q: %w", made.Name, err)
		}
	}
	if len(p.Config) > 0 {
		if err := at.Change(ctx, http.MethodPatch, "/1.0", api.ServerPut{Config: p.Config}, ""); err != nil {
			return err
		}
	}
	networks, err := nameList(ctx, at, "/1.0/networks")
	if err != nil {
		return err
	}
	for _, n := range p.Networks {
		if err := seedNetworkInto(ctx, at, n, slices.Contains(networks, n.Name)); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "network %q: %w", n.Name, err)
		}
	}
	for _, profile := range p.Profiles {
		in := at
		if profile.Project != "" {
			in.Client = at.WithProject(profile.Project)
		}
		profiles, err := nameList(ctx, in, "/1.0/profiles")
		if err == nil {
			err = a.seedProfileInto(ctx, in, profile, slices.Contains(profiles, profile.Name))
		}
		if err != nil {
			return kiln.Errorf(kiln.KindOf(err), "profile %q: %w", profile.Name, err)
		}
	}
	return nil
}

func (a *app) seedProjectInto(ctx context.Context, at place.Place, p seedProject, there bool) error {
	put := api.ProjectPut{Description: p.Description, Config: p.Config}
	if !there {
		return at.Change(ctx, http.MethodPost, "/1.0/projects", api.ProjectsPost{ProjectPut: put, Name: p.Name}, "")
	}
	var now api.Project
	tag, err := at.Get(ctx, projectPath(p.Name), nil, &now)
	if err != nil {
		return err
	}
	said := maps.Clone(p.Config)
	maps.DeleteFunc(said, func(k, _ string) bool { // it has all that there is, in LXD and here
		return p.Name == project.Default && strings.HasPrefix(k, "features.")
	})
	put.Description, put.Config = cmp.Or(p.Description, now.Description), over(now.Config, said)
	return a.change(ctx, at, projectPath(p.Name), put, tag)
}

func seedNetworkInto(ctx context.Context, at place.Place, n seedNetwork, there bool) error {
	put := api.NetworkPut{Description: n.Description, Config: n.Config}
	if !there {
		post := api.NetworksPost{NetworkPut: put, Name: n.Name, Type: n.Type}
		return at.Change(ctx, http.MethodPost, "/1.0/networks", post, "")
	}
	var now api.Network
	tag, err := at.Get(ctx, networkPath(n.Name), nil, &now)
	if err != nil {
		return err
	}
	said := maps.Clone(n.Config)
	maps.DeleteFunc(said, func(k, v string) bool { // it has the address that was chosen
		return v == "auto" && now.Config[k] != "" && now.Config[k] != "none"
	})
	put.Description, put.Config = cmp.Or(n.Description, now.Description), over(now.Config, said)
	return at.Change(ctx, http.MethodPut, networkPath(n.Name), put, tag)
}

func (a *app) seedProfileInto(ctx context.Context, at place.Place, p seedProfile, there bool) error {
	put := api.ProfilePut{Description: p.Description, Config: p.Config, Devices: p.Devices}
	if !there {
		return at.Change(ctx, http.MethodPost, "/1.0/profiles", api.ProfilesPost{ProfilePut: put, Name: p.Name}, "")
	}
	var now api.Profile
	tag, err := at.Get(ctx, profilePath(p.Name), nil, &now)
	if err != nil {
		return err
	}
	put.Description = cmp.Or(p.Description, now.Description)
	put.Config, put.Devices = over(now.Config, p.Config), over(now.Devices, p.Devices)
	return a.change(ctx, at, profilePath(p.Name), put, tag)
}

// over lays what is said over what there is.
func over[V any](now, said map[string]V) map[string]V {
	both := map[string]V{}
	maps.Copy(both, now)
	maps.Copy(both, said)
	return both
}

// dumpPreseed shows what is set, but for what no server tells, such as a password.
func (a *app) dumpPreseed(ctx context.Context, at place.Place) error {
	var s api.Server
	var networks []api.Network
	var projects []api.Project
	var pools []api.StoragePool
	all := map[string][]string{"recursion": {"1"}}
	for path, to := range map[string]any{"/1.0": &s, "/1.0/networks": &networks, "/1.0/projects": &projects,
		"/1.0/storage-pools": &pools} {
		if _, err := at.Get(ctx, path, all, to); err != nil {
			return err
		}
	}
	p := preseed{Config: s.Config, Networks: []seedNetwork{}, Profiles: []seedProfile{}}
	delete(p.Config, "core.trust_password")
	for _, n := range networks {
		if n.Managed {
			p.Networks = append(p.Networks, seedNetwork{Name: n.Name, Type: n.Type, Description: n.Description,
				Config: n.Config})
		}
	}
	for _, pool := range pools {
		p.StoragePools = append(p.StoragePools, seedPool{Name: pool.Name, Driver: pool.Driver, Description: pool.Description,
			Config: pool.Config})
	}
	for _, in := range projects {
		p.Projects = append(p.Projects, seedProject{Name: in.Name, Description: in.Description, Config: in.Config})
		if in.Name != project.Default && !kiln.IsTrue(in.Config["features.profiles"]) {
			continue // those of the default project
		}
		var profiles []api.Profile
		if _, err := at.WithProject(in.Name).Get(ctx, "/1.0/profiles", all, &profiles); err != nil {
			return err
		}
		for _, profile := range profiles {
			p.Profiles = append(p.Profiles, seedProfile{Name: profile.Name, Description: profile.Description, Project: in.Name,
				Config: profile.Config, Devices: profile.Devices})
		}
	}
	return a.yaml(p)
}
