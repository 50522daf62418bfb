// Package client speaks the 1.0 API to a kiln daemon, and to LXD and Incus where
// they have the same. It knows neither how a terminal looks nor where a
// configuration is kept.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/foreign"
)

// A Client talks to one server.
type Client struct {
	http    *http.Client
	base    string // URL
	where   string // for people
	local   bool   // behind a socket
	project string
	all     bool   // requests are about all projects
	secret  string // of a private image
	agent   string // who asks, for the log of the server

	retell func(text string) string // what the server says, or nil

	meant, uuid string // the path of an instance, and which one requests about it mean
}

// Unix makes a client of the daemon behind a socket. Nothing is sent yet.
func Unix(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{
		http: &http.Client{Transport: retrying{&http.Transport{DialContext: dial, DisableCompression: true}}},
		base: "http://kiln", where: socket, local: true,
	}
}

// HTTPS makes a client of the server at a URL. How the server is recognised, and
// what the client shows it, is hc's affair. Nothing is sent yet.
func HTTPS(base string, hc *http.Client) *Client {
	base = strings.TrimSuffix(base, "/")
	own := *hc
	own.Transport = retrying{own.Transport}
	return &Client{http: &own, base: base, where: base}
}

// WithUserAgent gives a client that says which program asks: "kiln/1.2".
func (c *Client) WithUserAgent(agent string) *Client {
	copied := *c
	copied.agent = agent
	return &copied
}

// WithRetold gives a client that passes what the server says of errors, and warns of, through
// a function: it may say commands as they have to be typed where the client is.
func (c *Client) WithRetold(retell func(text string) string) *Client {
	copied := *c
	copied.retell = retell
	return &copied
}

func (c *Client) retold(text string) string {
	if c.retell == nil {
		return text
	}
	return c.retell(text)
}

// header is what the headers of all requests have.
func (c *Client) header() http.Header {
	if c.agent == "" {
		return nil
	}
	return http.Header{"User-Agent": {c.agent}}
}

// WithSecret gives a client whose requests have the secret of a private image.
func (c *Client) WithSecret(secret string) *Client {
	copied := *c
	copied.secret = secret
	return &copied
}

// URL is where a path of the server is, with what the client adds to requests.
func (c *Client) URL(path string) string { return c.url(path, nil) }

// Meaning gives a client whose requests about an instance mean by its name the one that has
// a UUID (of its configuration: "volatile.backups.uuid", which it has once it was rebuilt and stays
// the same when that is done again, or else "volatile.uuid"): another one that has got the name meanwhile
// is a Conflict. Servers without the API extension kiln_instance_uuid look at the name only.
func (c *Client) Meaning(instance, uuid string) *Client {
	copied := *c
	copied.meant, copied.uuid = Path("/1.0/instances", instance), uuid
	return &copied
}

// url adds to a path what the client's requests have in common, and more. A path may have a
// query itself, which stays as it is; a project that it names is the one that is meant.
func (c *Client) url(path string, more url.Values) string {
	q := c.query(more)
	rest, ok := strings.CutPrefix(path, c.meant)
	if ok && c.uuid != "" && (rest == "" || rest[0] == '/' || rest[0] == '?') {
		q.Set("uuid", c.uuid)
	}
	_, own, has := strings.Cut(path, "?")
	if said, err := url.ParseQuery(own); err == nil && (said.Has("project") || said.Has("all-projects")) {
		q.Del("project")
		q.Del("all-projects")
	}
	switch {
	case len(q) == 0:
		return c.base + path
	case has:
		return c.base + path + "&" + q.Encode()
	}
	return c.base + path + "?" + q.Encode()
}

// query adds what the client's requests have in common.
func (c *Client) query(more url.Values) url.Values {
	q := url.Values{}
	switch {
	case c.all:
		q.Set("all-projects", "true")
	case c.project != "":
		q.Set("project", c.project)
	}
	if c.secret != "" {
		q.Set("secret", c.secret)
	}
	for k, v := range more {
		q[k] = v
	}
	return q
}

// WithProject gives a client whose requests name a project.
func (c *Client) WithProject(project string) *Client {
	copied := *c
	copied.project = project
	return &copied
}

// Project is the project that requests name; "": none.
func (c *Client) Project() string { return c.project }

// AllProjects gives a client whose requests are about all projects: only lists can be.
func (c *Client) AllProjects() *Client {
	copied := *c
	copied.all = true
	return &copied
}

// A Request is one call of the API.
type Request struct {
	Method, Path string
	Query        url.Values
	Body         any         // encoded as JSON, unless it is an io.Reader
	Size         int64       // of a Body that is an io.Reader; 0: unknown
	Header       http.Header // besides the usual
}

// unreachable explains why a server doesn't answer. The error is Network, or
// Denied; or, where a file that is sent can't be read, what reading it said.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var kind kiln.Kind
	var file *fs.PathError
	var socket *net.OpError
	dialled := errors.As(err, &socket) && socket.Op == "dial"
	switch {
	case ctx.Err() != nil: // a server that takes too long looks like this, too
		return err
	case !dialled && errors.As(err, &file): // of the request's body: sockets have errors of another type
		return cause(err)
	case errors.As(err, &kind):
		return kiln.Errorf(kind, "%s: %w", c.where, cause(err))
	case !c.local:
		return kiln.Errorf(kiln.Network, "talk to the server %s: %w", c.where, cause(err))
	case dialled && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return kiln.Errorf(kiln.Network, "no kiln daemon answers at %s; start one with \"systemctl start kiln\" or \"kiln "+
			"daemon\"", c.where)
	case dialled && errors.Is(err, fs.ErrPermission):
		return kiln.Errorf(kiln.Denied, "you may not talk to the kiln daemon at %s; become root or a member of the group "+
			"\"kiln\"", c.where)
	}
	return kiln.Errorf(kiln.Network, "talk to the daemon at %s: %w", c.where, err)
}

// cause takes off what net/http wraps around an error: the method and the URL,
// which can have a secret in it.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Raw sends a request and gives the answer as it comes. The caller closes its body.
func (c *Client) Raw(ctx context.Context, r Request) (*http.Response, error) {
	// A name that is empty would make it a request for something else.
	if path, _, _ := strings.Cut(r.Path, "?"); path != "/" && strings.Contains(path+"/", "//") {
		return nil, kiln.Errorf(kiln.Invalid, "a name is missing: %s needs one after each slash", path)
	}
	body, ok := r.Body.(io.Reader)
	if r.Body != nil && !ok {
		b, err := json.Marshal(r.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, c.url(r.Path, r.Query), body)
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "%w", err)
	}
	if r.Size > 0 {
		req.ContentLength = r.Size
	}
	if !ok && body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	maps.Copy(req.Header, c.header())
	for k, v := range r.Header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return resp, nil
}

// Download has fn read a file of the server.
func (c *Client) Download(ctx context.Context, path string, fn func(io.Reader) error) error {
	resp, err := c.Raw(ctx, Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_, err := c.envelope(resp)
		return err
	}
	return fn(resp.Body)
}

// Do sends a request and decodes the metadata of the answer into out, if that is
// not nil. It returns the ETag, and the operation of an asynchronous answer.
func (c *Client) Do(ctx context.Context, r Request, out any) (tag string, op *api.Operation, err error) {
	resp, err := c.Raw(ctx, r)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	a, err := c.envelope(resp)
	if err != nil {
		return "", nil, err
	}
	if a.Type == "async" {
		op = &api.Operation{}
		return "", op, json.Unmarshal(a.Metadata, op)
	}
	if out != nil {
		if err := json.Unmarshal(a.Metadata, out); err != nil {
			return "", nil, kiln.Errorf(kiln.Network, "%s answers %q what can't be understood: %w", c.where, r.Path, err)
		}
	}
	return resp.Header.Get("ETag"), nil, nil
}

// apiError is an error of a server, of the kind it says or its status means.
func apiError(kind kiln.Kind, status int, text string) error {
	if kind == "" {
		kind = map[int]kiln.Kind{
			http.StatusBadRequest: kiln.Invalid, http.StatusNotFound: kiln.NotFound, http.StatusConflict: kiln.Conflict,
			http.StatusForbidden: kiln.Denied, http.StatusPreconditionFailed: kiln.Stale,
			http.StatusRequestEntityTooLarge: kiln.TooLarge, http.StatusUnprocessableEntity: kiln.Integrity,
			http.StatusInsufficientStorage: kiln.NoSpace, http.StatusGatewayTimeout: kiln.Timeout,
			http.StatusServiceUnavailable: kiln.Busy,
		}[status]
	}
	if kind == "" {
		kind = kiln.Internal
	}
	return kiln.Errorf(kind, "%s", text)
}

// Get reads a thing into out and gives its ETag.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) (string, error) {
	tag, _, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path, Query: query}, out)
	return tag, err
}

// Change sends a change that the server makes at once, or waits for it.
func (c *Client) Change(ctx context.Context, method, path string, body any, tag string) error {
	_, err := c.ChangeWarned(ctx, method, path, body, tag)
	return err
}

// ChangeWarned is Change and also tells what the server warns of.
func (c *Client) ChangeWarned(ctx context.Context, method, path string, body any, tag string) (warnings []string,
	err error) {
	r := Request{Method: method, Path: path, Body: body, Header: http.Header{}}
	if tag != "" {
		r.Header.Set("If-Match", tag)
	}
	var metadata json.RawMessage
	_, op, err := c.Do(ctx, r, &metadata)
	if err != nil {
		return nil, err
	}
	if op != nil {
		done, err := c.Wait(ctx, op.ID)
		if err != nil {
			return nil, err
		}
		list, _ := done.Metadata["warnings"].([]any)
		for _, w := range list {
			warnings = append(warnings, c.retold(fmt.Sprint(w)))
		}
		return warnings, nil
	}
	var more struct{ Warnings []string }
	_ = json.Unmarshal(metadata, &more) // other servers answer what they like
	for _, w := range more.Warnings {
		warnings = append(warnings, c.retold(w))
	}
	return warnings, nil
}

// List reads every object of a collection.
func List[T any](ctx context.Context, c *Client, path string, recursion int) ([]T, error) {
	return Search[T](ctx, c, path, recursion, "")
}

// Search reads the objects of a collection that fit a filter of the API; "" fits all.
// A server that doesn't know filters gives all, too.
func Search[T any](ctx context.Context, c *Client, path string, recursion int, filter string) ([]T, error) {
	q := url.Values{"recursion": {fmt.Sprint(recursion)}}
	if filter != "" {
		q.Set("filter", filter)
	}
	var all []T
	_, err := c.Get(ctx, path, q, &all)
	return all, err
}

// Wait waits for the end of an operation. An operation that failed is an error,
// with what is known of it.
func (c *Client) Wait(ctx context.Context, id string) (api.Operation, error) {
	return c.wait(ctx, id, "")
}

// wait is Wait for who isn't trusted, but has a secret of the operation.
func (c *Client) wait(ctx context.Context, id, secret string) (api.Operation, error) {
	q := url.Values{"timeout": {strconv.Itoa(waitSeconds)}}
	if secret != "" {
		q.Set("secret", secret)
	}
	for {
		var o api.Operation
		if _, err := c.Get(ctx, "/1.0/operations/"+id+"/wait", q, &o); err != nil {
			return o, err
		}
		if o.StatusCode >= 200 || o.StatusCode == 0 {
			return o, c.failure(o)
		}
	}
}

// waitSeconds is how long one question for the end of an operation may take: less
// than proxies and transports allow an answer to take.
const waitSeconds = 20

// failure is the error of an operation that is over.
func (c *Client) failure(o api.Operation) error {
	if o.StatusCode == 200 || o.StatusCode < 200 {
		return nil
	}
	kind, _ := o.Metadata[api.KindKey].(string)
	if kind == "" && o.StatusCode == 401 {
		kind = string(kiln.Cancelled)
	}
	return apiError(kiln.Kind(kind), 0, c.retold(o.Err))
}

// Events calls fn with every event of some types until it returns an error, or
// ctx ends.
func (c *Client) Events(ctx context.Context, types []string, fn func(api.Event) error) error {
	q := url.Values{}
	if len(types) > 0 {
		q.Set("type", strings.Join(types, ","))
	}
	conn, err := c.dial(ctx, "/1.0/events", q)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return c.unreachable(ctx, err)
		}
		var e api.Event
		if err := foreign.Unmarshal(b, maxAnswer, &e); err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// maxMessage bounds one event, or one piece of a command's output, in bytes.
const maxMessage = 16 << 20

func (c *Client) dial(ctx context.Context, path string, q url.Values) (*websocket.Conn, error) {
	conn, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(c.base, "http")+path+"?"+c.query(q).Encode(),
		&websocket.DialOptions{HTTPClient: c.http, CompressionMode: websocket.CompressionDisabled,
			HTTPHeader: c.header()})
	if err != nil && ctx.Err() == nil && resp != nil && resp.StatusCode >= http.StatusBadRequest { // the server says why
		if _, said := c.envelope(resp); said != nil {
			return nil, said
		}
	}
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	conn.SetReadLimit(maxMessage)
	return conn, nil
}

// Connect opens a websocket of an operation by its secret. Its messages have no bound.
func (c *Client) Connect(ctx context.Context, operation, secret string) (*websocket.Conn, error) {
	conn, err := c.dial(ctx, Path("/1.0/operations", operation)+"/websocket", url.Values{"secret": {secret}})
	if err == nil {
		conn.SetReadLimit(-1)
	}
	return conn, err
}

// Path joins names to a path, each as one segment.
func Path(base string, names ...string) string {
	for _, n := range names {
		base += "/" + url.PathEscape(n)
	}
	return base
}

// Socket is where the local daemon listens: $KILN_SOCKET, else unix.socket in
// $KILN_DIR, which is /var/lib/kiln unless set.
func Socket() string {
	if s := os.Getenv("KILN_SOCKET"); s != "" {
		return s
	}
	return Dir() + "/unix.socket"
}

// Dir is the daemon's directory: $KILN_DIR or /var/lib/kiln.
func Dir() string {
	if d := os.Getenv("KILN_DIR"); d != "" {
		return d
	}
	return "/var/lib/kiln"
}
