package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/op"
)

// What a restricted client may say of an instance is decided here: nothing by which
// it would reach the host. Which routes it may call is in theServer.

// setsConfig tells the routes that take an instance's configuration.
func setsConfig(pattern, method string) bool {
	switch pattern {
	case "/1.0/instances":
		return method == http.MethodPost
	case "/1.0/instances/{name}":
		return method == http.MethodPut || method == http.MethodPatch
	}
	return false
}

// checkRestricted reads the configuration in a request, and puts the body back.
// Errors: Denied for what reaches the host, Invalid, TooLarge.
func checkRestricted(r *http.Request) error {
	b, err := readBody(r, maxJSON)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	var body struct {
		Config  map[string]string            `json:"config"`
		Devices map[string]map[string]string `json:"devices"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return kiln.Errorf(kiln.Invalid, "the request is not the JSON that is expected here: %w", err)
	}
	for key := range body.Config {
		if reachesHost(key) {
			return kiln.Errorf(kiln.Denied, "a restricted client may not set %s; ask an administrator of the server", key)
		}
	}
	for name, device := range body.Devices {
		if !harmless(device) {
			return kiln.Errorf(kiln.Denied, "a restricted client may not set the device %q, which reaches the host; ask an "+
				"administrator of the server", name)
		}
	}
	return nil
}

// reachesHost tells the keys by which an instance gets at the host.
func reachesHost(key string) bool {
	return key == "security.privileged" || key == "security.nesting" ||
		slices.ContainsFunc([]string{"raw.", "linux.kernel_modules", "limits.kernel.", "security.idmap.",
			"security.syscalls."}, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// harmless tells the devices that give an instance nothing of the host: the root
// disk, and "none", which takes one away.
func harmless(device map[string]string) bool {
	return device["type"] == "none" ||
		device["type"] == "disk" && device["path"] == "/" && device["source"] == ""
}

// isJoinToken reports whether an operation shows a token by which a client becomes
// trusted. Those of images and instances name what they are for.
func isJoinToken(o op.Snapshot) bool { return o.Class == op.Token && len(o.Resources) == 0 }

// mayHear reports whether a restricted client gets an event.
func mayHear(e event.Event) bool {
	o, ok := e.Metadata.(op.Snapshot)
	return e.Type != "logging" && (!ok || !isJoinToken(o))
}

// operationOf finds the operation of a request. The error is NotFound.
func (s *Server) operationOf(r *http.Request) (*op.Operation, error) {
	o, err := s.d.Ops.Get(r.PathValue("id"))
	if err == nil && who(r).restricted && isJoinToken(o.Snapshot()) {
		return nil, kiln.Errorf(kiln.NotFound, "Operation not found")
	}
	return o, err
}
