package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) imageCmd() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Manage images"}
	c.AddCommand(
		a.imageListCmd(), a.imageInfoCmd(), a.imageShowCmd(), a.imageEditCmd(), a.imageImportCmd(), a.imageExportCmd(),
		a.imageDeleteCmd(),
		a.imagePropertyCmd("get-property"), a.imagePropertyCmd("set-property"), a.imagePropertyCmd("unset-property"),
		a.imageHashCmd(), a.imageVerifyCmd(), a.imageDfCmd(), a.aliasCmd(),
		a.imageCopyCmd(), a.imageRefreshCmd(), a.imagePruneCmd(), a.publishTreeCmd(),
		a.imageHistoryCmd(), a.imageRollbackCmd(), a.imageDiffCmd(), a.imagePatchCmd(), a.publishCmd(), a.imageSignCmd(),
	)
	return c
}

// A heldImage is an image as it was when it was read, and where.
type heldImage struct {
	api.Image
	at  place.Place
	tag string
}

// image finds the image a word means.
func (a *app) image(ctx context.Context, word string) (i heldImage, err error) {
	if i.at, err = a.Image(word); err != nil {
		return i, err
	}
	i.Image, i.tag, err = i.at.Images().Resolve(ctx, i.at.Name)
	return i, err
}

// imageBeside finds the image a word means on the server of another.
func (a *app) imageBeside(ctx context.Context, other heldImage, word string) (heldImage, error) {
	at, err := other.at.SameServer(word)
	if err != nil {
		return heldImage{}, usageError{err}
	}
	return a.image(ctx, at.Word())
}

// anyImage is image for verbs that only look: also at servers without an API.
func (a *app) anyImage(ctx context.Context, word string) (heldImage, error) {
	if streams, err := a.OnlyImages(word); err != nil {
		return heldImage{}, err
	} else if !streams {
		return a.image(ctx, word)
	}
	_, img, err := a.LookAtImage(ctx, word)
	return heldImage{Image: place.Wire(img)}, err
}

// save writes what can be changed of an image.
func (i heldImage) save(ctx context.Context) error {
	return i.at.Change(ctx, http.MethodPut, imagePath(i.Image), i.ImagePut, i.tag)
}

func imagePath(img api.Image) string { return "/1.0/images/" + img.Fingerprint }

// shortAlias is the shortest alias and how many more there are.
func shortAlias(img api.Image) string {
	if len(img.Aliases) == 0 {
		return ""
	}
	short := slices.MinFunc(img.Aliases, func(a, b api.ImageAlias) int { return len(a.Name) - len(b.Name) }).Name
	if n := len(img.Aliases) - 1; n > 0 {
		return fmt.Sprintf("%s (%d more)", short, n)
	}
	return short
}

// imageColumns are the columns of a list of images. Who signed one is only known by the
// keys that are known.
func imageColumns(known signers) []column[api.Image] {
	return []column[api.Image]{
		col('l', "ALIAS", shortAlias),
		colList('L', "ALIASES", func(i api.Image) []string {
			var names []string
			for _, a := range i.Aliases {
				names = append(names, a.Name)
			}
			return names
		}),
		col('f', "FINGERPRINT", func(i api.Image) string { return orElse(short(i.Fingerprint), "-") }),
		col('F', "FINGERPRINT", func(i api.Image) string { return orElse(i.Fingerprint, "-") }),
		col('p', "PUBLIC", func(i api.Image) string { return yesNo(i.Public) }),
		col('d', "DESCRIPTION", func(i api.Image) string { return i.Properties["description"] }),
		col('a', "ARCHITECTURE", func(i api.Image) string { return i.Architecture }),
		col('t', "TYPE", func(i api.Image) string { return strings.ToUpper(i.Type) }),
		colBytes('s', "SIZE", func(i api.Image) int64 { return i.Size }),
		col('u', "UPLOAD DATE", func(i api.Image) string { return day(i.UploadedAt) }),
		col('e', "PROJECT", func(i api.Image) string { return i.Project }),
		col('A', "AUTO UPDATE", func(i api.Image) string { return yesNo(i.AutoUpdate) }),
		col('c', "CACHED", func(i api.Image) string { return yesNo(i.Cached) }),
		col('U', "LAST USED", func(i api.Image) string { return minute(i.LastUsedAt) }),
		col('C', "CREATED", func(i api.Image) string { return minute(i.CreatedAt) }),
		col('x', "EXPIRES", func(i api.Image) string { return minute(i.ExpiresAt) }),
		col('k', "KEPT", func(i api.Image) string { return i.Kept }),
		col('g', "SIGNED BY", func(i api.Image) string { return known.of(i).column() }),
	}
}

// imageProperty is a column with a property of images.
func imageProperty(kind, key string) func(api.Image) string {
	if kind == "config" || kind == "devices" {
		return nil
	}
	return func(i api.Image) string { return i.Properties[strings.TrimPrefix(key, "properties.")] }
}

func (a *app) imageListCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "list [<remote>:] [<filter>...]",
		Short: "List images",
		Long: "List images. A filter is a part of an alias or of a fingerprint, or key=value: a property (os=debian) " +
			"or a field (architecture, type, public, cached). All must fit.",
	}
	columns := columnsFlag(c, "lfpdatsu", imageColumns(nil), "; user.KEY or properties:KEY[:TITLE[:WIDTH]]: a property")
	exact := c.Flags().Bool("exact", false, "a word is a whole alias or fingerprint, not a part")
	form := formatFlag(c)
	a.allProjectsFlag(c)
	a.staleFlag(c)
	c.RunE = func(c *cobra.Command, words []string) error {
		if a.AllProjects && !c.Flags().Changed("columns") {
			*columns = "e" + *columns
		}
		known, err := a.signers(c.Context())
		if err != nil {
			return err
		}
		cols, err := choose(imageColumns(known), *columns, imageProperty)
		if err != nil {
			return err
		}
		all, words, err := a.Images(c.Context(), words, serverFilter)
		if err != nil {
			return err
		}
		return show(a, *form, cols, slices.DeleteFunc(all, func(i api.Image) bool {
			return slices.ContainsFunc(words, func(w string) bool { return !imageMatches(i, w, *exact) })
		}))
	}
	return c
}

// plainFilter is a filter by a property whose key and value every server reads as
// they are: without dots, which the key's parts may be abbreviated at, and without
// what could be an expression.
var plainFilter = regexp.MustCompile(`^[A-Za-z0-9_-]+=[A-Za-z0-9_-]+$`)

// serverFilter is what a server is asked for, so that it needn't send all its images
// where few are wanted: those that imageMatches would choose, and perhaps more.
func serverFilter(words []string) string {
	var clauses []string
	for _, w := range words[:min(len(words), 8)] { // servers bound what they are asked
		key, value, _ := strings.Cut(w, "=")
		if plainFilter.MatchString(w) && !slices.Contains(imageFilterFields, key) {
			clauses = append(clauses, "properties."+key+" eq "+value)
		}
	}
	return strings.Join(clauses, " and ")
}

// imageFilterFields are the fields that a filter can name; other keys are properties.
var imageFilterFields = []string{"architecture", "type", "fingerprint", "public", "cached", "filename"}

// imageMatches says whether an image fits one filter.
func imageMatches(img api.Image, word string, exact bool) bool {
	key, value, ok := strings.Cut(word, "=")
	if !ok {
		fits := strings.Contains
		if exact {
			fits = func(s, word string) bool { return s == word }
		}
		return fits(img.Fingerprint, word) ||
			slices.ContainsFunc(img.Aliases, func(a api.ImageAlias) bool { return fits(a.Name, word) })
	}
	switch key {
	case "architecture":
		if want, err := kiln.ParseArch(value); err == nil {
			return want == img.Architecture
		}
		return fits(img.Architecture, value)
	case "type":
		return fits(img.Type, value)
	case "fingerprint":
		return strings.HasPrefix(img.Fingerprint, value)
	case "public":
		return fits(fmt.Sprint(img.Public), value) || fits(yesNo(img.Public), value)
	case "cached":
		return fits(fmt.Sprint(img.Cached), value)
	case "filename":
		return fits(img.Filename, value)
	}
	key = strings.TrimPrefix(key, "properties.")
	for k, v := range img.Properties {
		if keyFits(k, key) && (fits(v, value) || k == "architecture" && sameArch(v, value)) {
			return true
		}
	}
	return false
}

func sameArch(a, b string) bool {
	x, err1 := kiln.ParseArch(a)
	y, err2 := kiln.ParseArch(b)
	return err1 == nil && err2 == nil && x == y
}

// fits compares with a regular expression that must match all of a text.
func fits(s, pattern string) bool {
	if strings.EqualFold(s, pattern) {
		return true
	}
	if !strings.ContainsAny(pattern, "^$") {
		pattern = "^(?:" + pattern + ")$"
	}
	re, err := regexp.Compile("(?i)" + pattern)
	return err == nil && re.MatchString(s)
}

// keyFits compares dotted keys, each part of which may be abbreviated: "u.blah"
// fits "user.blah".
func keyFits(key, short string) bool {
	if key == short {
		return true
	}
	have, want := strings.Split(key, "."), strings.Split(short, ".")
	if len(have) != len(want) || len(want) < 2 {
		return false
	}
	for i := range want {
		if !strings.HasPrefix(have[i], want[i]) {
			return false
		}
	}
	return true
}

func (a *app) imageInfoCmd() *cobra.Command {
	c := &cobra.Command{Use: "info [<remote>:]<image>", Short: "Show details of an image",
		Args: cobra.ExactArgs(1)}
	form := objectFlag(c)
	a.staleFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		i, err := a.anyImage(c.Context(), args[0])
		if err != nil {
			return err
		}
		if done, err := a.object(*form, i.Image); done {
			return err
		}
		pinned := a.pinned(c.Context(), args[0], i.Image) // by which more keys may be known
		known, err := a.signers(c.Context())
		if err != nil {
			return err
		}
		a.printImage(i.Image, known.of(i.Image), pinned)
		return nil
	}
	return c
}

// printImage shows an image as people read it.
func (a *app) printImage(i api.Image, signed *vouching, pinned string) {
	a.print("Fingerprint: %s\nSize: %s\nArchitecture: %s\nType: %s\nPublic: %s\nTimestamps:",
		orElse(i.Fingerprint, "- (it is known when the image was copied)"), size(i.Size),
		i.Architecture, i.Type, yesNo(i.Public))
	if i.CreatedAt.Unix() > 0 {
		a.print("    Created: %s", minute(i.CreatedAt))
	}
	a.print("    Uploaded: %s\n    Expires: %s\n    Last used: %s\nProperties:", minute(i.UploadedAt), minute(i.ExpiresAt),
		minute(i.LastUsedAt))
	for _, k := range slices.Sorted(maps.Keys(i.Properties)) {
		if k != kiln.SignatureProperty {
			a.print("    %s: %s", k, i.Properties[k])
		}
	}
	if signed != nil {
		a.print("Signature: %s", signed.String())
	}
	if pinned != "" {
		a.print("Pinned key: %s", pinned)
	}
	a.print("Aliases:")
	for _, al := range i.Aliases {
		if al.Description != "" {
			a.print("    - %s (%s)", al.Name, al.Description)
		} else {
			a.print("    - %s", al.Name)
		}
	}
	a.print("Cached: %s\nAuto update: %s", yesNo(i.Cached),
		map[bool]string{true: "enabled", false: "disabled"}[i.AutoUpdate])
	if s := i.UpdateSource; s != nil {
		a.print("Source:\n    Server: %s\n    Protocol: %s\n    Alias: %s", s.Server, s.Protocol, s.Alias)
		if s.ImageKey != "" {
			a.print("    Image key: %s", s.ImageKey)
		}
	}
	if i.Kept != "" {
		a.print("Kept: %s", i.Kept)
	}
	if len(i.Profiles) == 0 {
		a.print("Profiles: []")
		return
	}
	a.print("Profiles:")
	for _, n := range i.Profiles {
		a.print("    - %s", n)
	}
}

func (a *app) imageShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show [<remote>:]<image>", Short: "Show the editable properties of an image as YAML",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			i, err := a.anyImage(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.yaml(i.ImagePut)
		}}
}

const imageHelp = `### This is what can be changed of an image, as YAML.
### Lines that begin with # are left out.
###
### properties are your own; an empty value removes one.
### public makes the image public: untrusted clients may use it.
### auto_update has it follow the server that it was copied from.
`

// oldAutoUpdate is a key that is read, and not shown.
const oldAutoUpdate = "autoupdate"

// imageYAML is what people write: also the old name of auto_update.
type imageYAML struct {
	api.ImagePut `yaml:",inline"`
	Old          *bool `yaml:"autoupdate,omitempty"`
}

func (a *app) imageEditCmd() *cobra.Command {
	return &cobra.Command{Use: "edit [<remote>:]<image>", Short: "Edit an image's properties and flags, in an editor " +
		"or from standard input", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			i, err := a.image(c.Context(), args[0])
			if err != nil {
				return err
			}
			return edit(a, imageHelp, imageYAML{ImagePut: i.ImagePut}, i.Image, i.tag, func(y imageYAML, tag string) error {
				if y.Old != nil {
					y.AutoUpdate = *y.Old
				}
				return i.at.Change(c.Context(), http.MethodPut, imagePath(i.Image), y.ImagePut, tag)
			})
		}}
}

func (a *app) imagePropertyCmd(verb string) *cobra.Command {
	use, n := " [<remote>:]<image> <key>", 2
	if verb == "set-property" {
		use, n = use+" <value>", 3
	}
	return &cobra.Command{Use: verb + use, Short: strings.ToUpper(verb[:1]) + strings.ReplaceAll(verb[1:], "-",
		" a ") + " of an image", Args: cobra.ExactArgs(n),
		RunE: func(c *cobra.Command, args []string) error {
			i, err := a.image(c.Context(), args[0])
			if err != nil {
				return err
			}
			key := args[1]
			value, there := i.Properties[key]
			switch {
			case verb == "get-property" && !there, verb == "unset-property" && !there:
				return kiln.Errorf(kiln.NotFound, "image %q has no property %q%s", args[0], key,
					kiln.DidYouMean(key, slices.Collect(maps.Keys(i.Properties))))
			case verb == "get-property":
				return a.value(value)
			case verb == "set-property":
				i.Properties[key] = args[2]
			default:
				delete(i.Properties, key)
			}
			return i.save(c.Context())
		}}
}

// A verdict is what comes out of verifying an image.
type verdict struct {
	Fingerprint string `json:"fingerprint" yaml:"fingerprint"`
	Result      string `json:"result" yaml:"result"` // "good", or what is wrong
}

func (a *app) imageVerifyCmd() *cobra.Command {
	c := &cobra.Command{Use: "verify [[<remote>:]<image>...]",
		Short: "Verify images by reading them whole; all images by default"}
	form := objectFlag(c)
	addListFormats(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 || len(args) == 1 && place.IsServer(args[0]) {
			at, err := a.server(args)
			if err != nil {
				return err
			}
			all, err := client.List[api.Image](c.Context(), at.Client, "/1.0/images", 1)
			if err != nil {
				return err
			}
			args = nil
			for _, i := range all {
				args = append(args, at.At(i.Fingerprint).Word())
			}
		}
		var all []verdict
		err := each(args, func(word string) error {
			i, err := a.image(c.Context(), word)
			if err != nil {
				return err
			}
			err = i.at.Change(c.Context(), http.MethodPost, imagePath(i.Image)+"/verify", struct{}{}, "")
			v := verdict{i.Fingerprint, "good"}
			if err != nil {
				v.Result = err.Error()
			} else if *form == "text" {
				a.say("%s: good", i.Fingerprint)
			}
			all = append(all, v)
			return err
		})
		if *form == "text" {
			return err
		}
		return errors.Join(err, show(a, *form, []column[verdict]{
			col('f', "FINGERPRINT", func(v verdict) string { return v.Fingerprint }),
			col('r', "RESULT", func(v verdict) string { return v.Result }),
		}, all))
	}
	return c
}

func (a *app) imageDfCmd() *cobra.Command {
	c := &cobra.Command{Use: "df [<remote>:]", Short: "Show how much disk space images use", Args: cobra.MaximumNArgs(1)}
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		var u api.ImageStoreUsage
		if _, err := at.Get(c.Context(), "/1.0/kiln/images/usage", nil, &u); err != nil {
			return err
		}
		columns := []column[api.ImageUsage]{
			col('l', "IMAGE", func(i api.ImageUsage) string {
				if len(i.Aliases) > 0 {
					return i.Aliases[0]
				}
				return short(i.Fingerprint)
			}),
			colBytes('s', "STORED", func(i api.ImageUsage) int64 { return i.Stored }),
			colBytes('h', "SHARED", func(i api.ImageUsage) int64 { return i.Shared }),
			colBytes('t', "TREE", func(i api.ImageUsage) int64 { return i.Tree }),
			colBytes('c', "TREE SHARED", func(i api.ImageUsage) int64 { return i.TreeShared }),
			col('k', "TREE KIND", func(i api.ImageUsage) string { return i.TreeKind }),
			colList('u', "USED BY", func(i api.ImageUsage) []string { return i.UsedBy }),
		}
		if strings.HasPrefix(*form, "json") || strings.HasPrefix(*form, "yaml") {
			return show(a, *form, nil, []api.ImageStoreUsage{u})
		}
		if err := show(a, *form, columns, u.Images); err != nil {
			return err
		}
		a.remark("stored %s, saved by sharing %s, unpacked %s, free %s", size(u.Stored), size(u.Shared), size(u.Trees),
			size(u.Free))
		return nil
	}
	return c
}
