package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) queryCmd() *cobra.Command {
	c := &cobra.Command{Use: "query [<remote>:]<path>", Short: "Send a raw API request",
		Args: cobra.ExactArgs(1)}
	method := c.Flags().StringP("request", "X", http.MethodGet, "method")
	data := c.Flags().StringP("data", "d", "", "JSON to send")
	wait := c.Flags().Bool("wait", false, "wait for the operation")
	raw := c.Flags().Bool("raw", false, "show the answer as it comes")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		path := at.Name
		if !strings.HasPrefix(path, "/") {
			return usageError{fmt.Errorf("%q is no path of the API; they begin with /1.0", args[0])}
		}
		r := client.Request{Method: *method, Path: path}
		if *data != "" {
			if err := json.Unmarshal([]byte(*data), new(any)); err != nil {
				return usageError{fmt.Errorf("the data (--data) isn't JSON: %w", err)}
			}
			r.Body = json.RawMessage(*data)
		}
		if *raw {
			resp, err := at.Raw(c.Context(), r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			w := a.data()
			defer flush(w)
			_, err = io.Copy(w, resp.Body)
			return err
		}
		if p, _, _ := strings.Cut(path, "?"); p == "/1.0/metrics" && r.Method == http.MethodGet { // which aren't JSON
			return at.Download(c.Context(), path, func(in io.Reader) error {
				w := a.data()
				defer flush(w)
				_, err := io.Copy(w, in)
				return err
			})
		}
		var out any
		_, op, err := at.Do(c.Context(), r, &out)
		if notJSON(err) {
			return kiln.Errorf(kiln.Invalid, "the answer isn't JSON, as that of a log or a file; to see it as it is give --raw")
		}
		if err != nil {
			return err
		}
		if op != nil {
			out = op
			if *wait && op.Class == "token" {
				a.remark("a token isn't waited for: it ends when somebody uses it")
			} else if *wait {
				if out, err = at.Wait(c.Context(), op.ID); err != nil {
					return err
				}
			}
		}
		e := json.NewEncoder(a.data())
		e.SetIndent("", "\t")
		return e.Encode(out)
	}
	return c
}

// notJSON reports whether an error is that of an answer in another format.
func notJSON(err error) bool {
	var syntax *json.SyntaxError
	var other *json.UnmarshalTypeError // a number, as text can begin
	return errors.As(err, &syntax) || errors.As(err, &other) || errors.Is(err, io.EOF)
}
