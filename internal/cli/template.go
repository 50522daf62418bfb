package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// maxTemplate is the largest template that is read, in bytes.
const maxTemplate = 16 << 20

func (a *app) templateCmd() *cobra.Command {
	c := &cobra.Command{Use: "template", Short: "Manage the templates of an instance"}
	c.AddCommand(a.templateListCmd(),
		&cobra.Command{Use: "show [<remote>:]<instance> <template>", Short: "Show a template", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				text, err := a.template(c.Context(), args)
				if err != nil {
					return err
				}
				w := a.data()
				defer flush(w)
				_, err = io.WriteString(w, text)
				return err
			}},
		&cobra.Command{Use: "create [<remote>:]<instance> <template>",
			Short: "Create a template, from standard input if there is any", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				if terminal(a.In) {
					return a.sendTemplate(c.Context(), args, strings.NewReader(""))
				}
				return a.sendTemplate(c.Context(), args, a.In)
			}},
		&cobra.Command{Use: "edit [<remote>:]<instance> <template>", Short: "Edit a template", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				text, err := a.template(c.Context(), args)
				if err != nil {
					return err
				}
				if !terminal(a.In) {
					return a.sendTemplate(c.Context(), args, a.In)
				}
				b, err := a.editor([]byte(text))
				if err != nil {
					return err
				}
				return a.sendTemplate(c.Context(), args, strings.NewReader(string(b)))
			}},
		&cobra.Command{Use: "delete [<remote>:]<instance> <template>", Short: "Delete a template",
			Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
				at, p, err := a.templates(args[0])
				if err != nil {
					return err
				}
				_, _, err = at.Do(c.Context(), client.Request{Method: http.MethodDelete, Path: p,
					Query: url.Values{"path": {args[1]}}}, nil)
				return a.suggest(c.Context(), at, err)
			}},
	)
	return c
}

func (a *app) templateListCmd() *cobra.Command {
	c := &cobra.Command{Use: "list [<remote>:]<instance>", Short: "List templates",
		Args: cobra.ExactArgs(1)}
	show := listFlags(a, c, "n", []column[string]{col('n', "FILENAME", func(s string) string { return s })})
	c.RunE = func(c *cobra.Command, args []string) error {
		at, p, err := a.templates(args[0])
		if err != nil {
			return err
		}
		var names []string
		if _, err := at.Get(c.Context(), p, nil, &names); err != nil {
			return a.suggest(c.Context(), at, err)
		}
		return show(names)
	}
	return c
}

// templates is where the templates of the instance are that a word means.
func (a *app) templates(word string) (at place.Place, path string, err error) {
	at, err = a.At(word)
	return at, instancePath(at.Name) + "/metadata/templates", err
}

// sendTemplate replaces a template: args are the instance and the template.
func (a *app) sendTemplate(ctx context.Context, args []string, body io.Reader) error {
	at, p, err := a.templates(args[0])
	if err != nil {
		return err
	}
	_, _, err = at.Do(ctx, client.Request{
		Method: http.MethodPost, Path: p, Query: url.Values{"path": {args[1]}}, Body: body,
		Header: http.Header{"Content-Type": {"application/octet-stream"}},
	}, nil)
	return a.suggest(ctx, at, err)
}

// template reads a template: args are the instance and the template.
func (a *app) template(ctx context.Context, args []string) (string, error) {
	at, p, err := a.templates(args[0])
	if err != nil {
		return "", err
	}
	query := url.Values{"path": {args[1]}}
	resp, err := at.Raw(ctx, client.Request{Method: http.MethodGet, Path: p, Query: query})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // an error comes as JSON, a template as it is
		var ignored any
		_, err := at.Get(ctx, p, query, &ignored)
		if err == nil {
			err = kiln.Errorf(kiln.Network, "the server answers %s", resp.Status)
		}
		return "", a.suggest(ctx, at, err)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxTemplate+1))
	if err == nil && len(b) > maxTemplate {
		err = kiln.Errorf(kiln.TooLarge, "template %q is larger than %s", args[1], size(maxTemplate))
	}
	if err != nil {
		return "", fmt.Errorf("read template %q: %w", args[1], err)
	}
	return string(b), nil
}
