package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/trust"
)

func certificatePath(fp string) string { return client.Path("/1.0/certificates", fp) }

func (a *app) trustCmd() *cobra.Command {
	c := &cobra.Command{Use: "trust", Short: "Manage trusted clients"}
	c.AddCommand(a.trustListCmd(), a.trustAddCmd(), a.trustTokensCmd(), a.trustRevokeCmd(),
		&cobra.Command{Use: "show [<remote>:]<client>", Short: "Show a trusted client as YAML", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				var cert api.Certificate
				if _, err := at.Get(c.Context(), certificatePath(at.Name), nil, &cert); err != nil {
					return err
				}
				return a.yaml(cert)
			}},
		&cobra.Command{Use: "edit [<remote>:]<client>", Short: "Edit a trusted client", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				var cert api.Certificate
				tag, err := at.Get(c.Context(), certificatePath(at.Name), nil, &cert)
				if err != nil {
					return err
				}
				return edit(a, editHelp, cert.CertificatePut, cert, tag, func(put api.CertificatePut, tag string) error {
					return at.Change(c.Context(), http.MethodPut, certificatePath(cert.Fingerprint), put, tag)
				})
			}},
		&cobra.Command{Use: "rename [<remote>:]<client> <new-name>", Short: "Rename a trusted client",
			Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				return at.Change(c.Context(), http.MethodPatch, certificatePath(at.Name), map[string]string{"name": args[1]}, "")
			}},
		&cobra.Command{Use: "remove [<remote>:]<client>...", Short: "Remove trusted clients",
			Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
				return a.deleteAll(c.Context(), args, func(ctx context.Context, word string) (thing, error) {
					at, err := a.At(word)
					if err != nil {
						return thing{}, err
					}
					_, err = at.Get(ctx, certificatePath(at.Name), nil, nil)
					return thing{at, certificatePath(at.Name), at.Name}, err
				}, "")
			}},
	)
	return c
}

func (a *app) trustListCmd() *cobra.Command {
	list := &cobra.Command{Use: "list [<remote>:]", Short: "List trusted clients",
		Args: cobra.MaximumNArgs(1)}
	day := func(get func(api.Certificate) time.Time) func(api.Certificate) string {
		return func(c api.Certificate) string { return get(c).UTC().Format("Jan 2, 2006 at 3:04pm (MST)") }
	}
	show := listFlags(a, list, "ntfierp", []column[api.Certificate]{
		col('n', "NAME", func(c api.Certificate) string { return c.Name }),
		col('t', "TYPE", func(c api.Certificate) string { return c.Type }),
		col('f', "FINGERPRINT", func(c api.Certificate) string { return short(c.Fingerprint) }),
		col('i', "ISSUE DATE", day(func(c api.Certificate) time.Time { b, _ := validity(c); return b })),
		col('e', "EXPIRY DATE", day(func(c api.Certificate) time.Time { _, e := validity(c); return e })),
		col('r', "RESTRICTED", func(c api.Certificate) string { return yesNo(c.Restricted) }),
		colList('p', "PROJECTS", func(c api.Certificate) []string { return c.Projects }),
	})
	list.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		all, err := client.List[api.Certificate](c.Context(), at.Client, "/1.0/certificates", 1)
		if err != nil {
			return err
		}
		return show(all)
	}
	return list
}

// validity tells from when until when a certificate is good.
func validity(c api.Certificate) (from, until time.Time) {
	cert, err := trust.Parse([]byte(c.Certificate))
	if err != nil {
		return from, until
	}
	return cert.NotBefore, cert.NotAfter
}

func (a *app) trustAddCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "add [<remote>:] [<certificate>]", Short: "Add a trusted client, by its certificate or with a join token",
		Args: cobra.MaximumNArgs(2),
	}
	name := c.Flags().String("name", "", "name of the client")
	restricted := c.Flags().Bool("restricted", false, "limit the client to some projects")
	projects := c.Flags().StringSlice("projects", nil, "projects of a restricted client (default: "+project.Default+")")
	description := c.Flags().String("description", "", "description")
	typ := choiceFlag(c, "type", "", "client", "what the client may do: everything, or only read metrics",
		"client", "metrics")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, args, err := a.Server(args)
		if err != nil {
			return err
		}
		post := api.CertificatesPost{CertificatePut: api.CertificatePut{Name: *name, Type: *typ,
			Restricted: *restricted || len(*projects) > 0, Projects: *projects, Description: *description}}
		if post.Restricted && len(post.Projects) == 0 {
			// With none, the client could do nothing, and its join token would be used up.
			post.Projects = []string{project.Default}
			a.remark("No --projects given: the client is limited to the project %s", project.Default)
		}
		if len(args) == 0 {
			return a.issueToken(c, at, post)
		}
		b, err := os.ReadFile(args[0])
		if errors.Is(err, fs.ErrNotExist) && post.Name == "" && !strings.ContainsAny(args[0], "./") {
			post.Name = args[0] // a name alone asks for a token, as with Incus
			return a.issueToken(c, at, post)
		}
		if err != nil {
			return err
		}
		cert, err := trust.Parse(b)
		if err != nil {
			return kiln.Errorf(kiln.KindOf(err), "%s: %w", args[0], err)
		}
		post.Certificate = trust.PEM(cert)
		return at.Change(c.Context(), http.MethodPost, "/1.0/certificates", post, "")
	}
	return c
}

func (a *app) issueToken(c *cobra.Command, at place.Place, post api.CertificatesPost) error {
	if post.Name == "" {
		return usageError{errors.New("missing argument: a certificate file, or --name for a join token")}
	}
	post.Token = true
	_, op, err := at.Do(c.Context(), client.Request{Method: http.MethodPost, Path: "/1.0/certificates", Body: post}, nil)
	if err != nil {
		return err
	}
	t, err := tokenOf(*op)
	if err != nil {
		return err
	}
	if post.Type == "metrics" {
		a.remark("Note: no remote can be made of a client that only reads metrics; it proves itself with the token in a " +
			"request: POST /1.0/certificates")
	}
	a.remark("Client %s certificate add token:", post.Name)
	fmt.Fprintln(a.Out, t)
	return nil
}

// tokenOf makes a token of the operation that stands for it.
func tokenOf(op api.Operation) (trust.Token, error) {
	t := trust.Token{}
	text := func(key string) string { s, _ := op.Metadata[key].(string); return s }
	t.Secret, t.Fingerprint = text("secret"), text("fingerprint")
	if request, ok := op.Metadata["request"].(map[string]any); ok {
		t.ClientName, _ = request["name"].(string)
		if typ, _ := request["type"].(string); typ != "client" {
			t.Type = typ
		}
	}
	if list, ok := op.Metadata["addresses"].([]any); ok {
		for _, v := range list {
			if s, ok := v.(string); ok {
				t.Addresses = append(t.Addresses, s)
			}
		}
	}
	if at, err := time.Parse(time.RFC3339, text("expiresAt")); err == nil {
		t.ExpiresAt = at
	}
	if t.Secret == "" {
		return t, kiln.Errorf(kiln.Network, "the server gave no token")
	}
	return t, nil
}

// joinTokens gives the unused join tokens of a server, each with its operation's ID.
func joinTokens(ctx context.Context, at place.Place) (tokens []trust.Token, ids []string, err error) {
	var byStatus map[string][]api.Operation
	if _, err := at.Get(ctx, "/1.0/operations", map[string][]string{"recursion": {"1"}}, &byStatus); err != nil {
		return nil, nil, err
	}
	for _, op := range byStatus["running"] {
		if t, err := tokenOf(op); err == nil && op.Class == "token" && t.ClientName != "" {
			tokens, ids = append(tokens, t), append(ids, op.ID)
		}
	}
	return tokens, ids, nil
}

func (a *app) trustRevokeCmd() *cobra.Command {
	return &cobra.Command{Use: "revoke-token [<remote>:]<name>", Short: "Revoke the unused join tokens of a client",
		Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			at, err := a.At(args[0])
			if err != nil {
				return err
			}
			tokens, ids, err := joinTokens(c.Context(), at)
			if err != nil {
				return err
			}
			found := false
			for i, t := range tokens {
				if t.ClientName != at.Name {
					continue
				}
				found = true
				if err := at.Change(c.Context(), http.MethodDelete, client.Path("/1.0/operations", ids[i]), nil, ""); err != nil {
					return err
				}
			}
			if !found {
				var known []string
				for _, t := range tokens {
					known = append(known, t.ClientName)
				}
				return kiln.Errorf(kiln.NotFound, "no unused join token for a client %q%s; see: kiln config trust list-tokens",
					at.Name, kiln.DidYouMean(at.Name, known))
			}
			a.say("Join token for %s revoked", at.Name)
			return nil
		}}
}

func (a *app) trustTokensCmd() *cobra.Command {
	c := &cobra.Command{Use: "list-tokens [<remote>:]", Short: "List unused join tokens",
		Args: cobra.MaximumNArgs(1)}
	show := listFlags(a, c, "nte", []column[trust.Token]{
		col('n', "NAME", func(t trust.Token) string { return t.ClientName }),
		col('t', "TOKEN", trust.Token.String),
		col('e', "EXPIRES AT", func(t trust.Token) string { return minute(t.ExpiresAt) }),
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		list, _, err := joinTokens(c.Context(), at)
		if err != nil {
			return err
		}
		return show(list)
	}
	return c
}
