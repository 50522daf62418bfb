package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/api"
)

// TestProjectRules has everybody, and a restricted client, try in a project what its keys
// allow and what they don't.
func TestProjectRules(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"own","config":{"restricted":"true"}}`)
	p.admin(t, "POST", "/1.0/projects", `{"name":"free"}`)
	guest := p.restrictedTo(t, "own", "free")
	done := func(method, path, body string, asGuest bool) string {
		t.Helper()
		get := func(method, path, body string) string {
			if asGuest {
				return p.ask(guest, method, path, body).Body.String()
			}
			_, b := p.do(method, path, body)
			return string(b)
		}
		text := get(method, path, body)
		var a api.Response
		if err := json.Unmarshal([]byte(text), &a); err == nil && a.Operation != "" {
			text = get("GET", a.Operation+"/wait", "")
		}
		return text
	}
	const features = `"features.profiles":"true","features.images":"true","features.storage.volumes":"true"`
	rules := func(config string) {
		t.Helper()
		p.admin(t, "PUT", "/1.0/projects/own", `{"config":{`+strings.TrimSuffix(features+","+config, ",")+`}}`)
	}
	fails := func(text string) bool {
		return strings.Contains(text, `"type":"error"`) || strings.Contains(text, `"Failure"`)
	}
	const in = "?project=own"
	for _, c := range []struct{ what, key, allowed, by string }{
		{`"config":{"security.nesting":"true"}`, "restricted.containers.nesting", "allow", ""},
		{`"config":{"security.privileged":"true"}`, "restricted.containers.privilege", "allow", "isolated"},
		{`"config":{"raw.lxc":"lxc.hook.pre-start=/bin/id"}`, "restricted.containers.lowlevel", "allow", ""},
		{`"config":{"security.syscalls.intercept.mknod":"true"}`, "restricted.containers.interception", "full", ""},
		{`"devices":{"d":{"type":"disk","source":"/","path":"/mnt"}}`, "restricted.devices.disk", "allow", "block"},
		{`"devices":{"d":{"type":"nic","nictype":"p2p"}}`, "restricted.devices.nic", "allow", ""},
		{`"devices":{"d":{"type":"unix-char","source":"/dev/null"}}`, "restricted.devices.unix-char", "allow", ""},
		{`"devices":{"d":{"type":"usb","vendorid":"abcd"}}`, "restricted.devices.usb", "allow", ""},
		{`"devices":{"d":{"type":"unix-hotplug","vendorid":"abcd"}}`, "restricted.devices.unix-hotplug", "allow", ""},
		{`"devices":{"d":{"type":"proxy","listen":"tcp:127.0.0.1:1","connect":"tcp:127.0.0.1:2"}}`,
			"restricted.devices.proxy", "allow", ""},
	} {
		body := `{"name":"x","source":{"type":"none"},` + c.what + `}`
		for _, config := range []string{`"restricted":"true"`, `"restricted":"true","` + c.key + `":"` + c.by + `"`} {
			rules(config)
			for _, asGuest := range []bool{false, true} {
				if text := done("POST", "/1.0/instances"+in, body, asGuest); !fails(text) ||
					!asGuest && !strings.Contains(text, c.key) {
					t.Errorf("%s with %s (guest: %v): %s", c.what, config, asGuest, text)
				}
			}
		}
		// A key without restricted=true says nothing: others may, and restricted clients may not.
		rules(`"` + c.key + `":"` + c.allowed + `"`)
		if text := done("POST", "/1.0/instances"+in, body, true); !fails(text) {
			t.Errorf("%s by a restricted client in a project that isn't: %s", c.what, text)
		}
		rules(`"restricted":"true","` + c.key + `":"` + c.allowed + `"`)
		for _, asGuest := range []bool{false, true} {
			if text := done("POST", "/1.0/instances"+in, body, asGuest); fails(text) {
				t.Errorf("%s where %s allows it (guest: %v): %s", c.what, c.key, asGuest, text)
				continue
			}
			// The key can't be taken back while an instance stands in the way.
			resp, b := p.do("PUT", "/1.0/projects/own", `{"config":{`+features+`,"restricted":"true"}}`)
			if resp.StatusCode != http.StatusConflict || !strings.Contains(string(b), `instance \"x\" has`) {
				t.Errorf("%s taken back: %d %s", c.key, resp.StatusCode, b)
			}
			p.admin(t, "DELETE", "/1.0/instances/x"+in, "")
		}
		if text := done("POST", "/1.0/instances?project=free", body, true); !fails(text) {
			t.Errorf("%s by a restricted client elsewhere: %s", c.what, text)
		}
	}

	// By whatever way a configuration comes.
	rules(`"restricted":"true","restricted.snapshots":"allow"`)
	p.admin(t, "POST", "/1.0/instances?project=free", `{"name":"f","source":{"type":"none"},"config":{"security.nesting":"true"}}`)
	p.admin(t, "POST", "/1.0/instances"+in, `{"name":"c","source":{"type":"none"}}`)
	rules("")
	p.admin(t, "PATCH", "/1.0/instances/c"+in, `{"config":{"security.nesting":"true"}}`)
	p.admin(t, "POST", "/1.0/instances/c/snapshots"+in, `{"name":"s"}`)
	p.admin(t, "PATCH", "/1.0/instances/c"+in, `{"config":{"security.nesting":""}}`)
	p.admin(t, "POST", "/1.0/projects", `{"name":"shared","config":{"features.profiles":"false","restricted":"true"}}`)
	p.admin(t, "POST", "/1.0/instances?project=shared", `{"name":"i","source":{"type":"none"}}`)
	p.admin(t, "POST", "/1.0/profiles"+in, `{"name":"q","config":{}}`)
	rules(`"restricted":"true","restricted.snapshots":"allow"`)
	for _, c := range [][3]string{
		{"PATCH", "/1.0/instances/c" + in, `{"config":{"security.nesting":"true"}}`},
		{"PUT", "/1.0/instances/c" + in, `{"restore":"s"}`},
		{"POST", "/1.0/instances" + in, `{"name":"y","source":{"type":"copy","source":"c/s"}}`},
		{"POST", "/1.0/instances" + in, `{"name":"y","source":{"type":"copy","source":"f","project":"free"}}`},
		{"POST", "/1.0/instances/f?project=free", `{"name":"f","project":"own","migration":true}`},
		{"PATCH", "/1.0/profiles/default" + in, `{"config":{"security.nesting":"true"}}`},
		{"PUT", "/1.0/profiles/q" + in, `{"config":{"raw.lxc":"lxc.hook.pre-start=/bin/id"}}`},
		{"POST", "/1.0/profiles" + in, `{"name":"r","config":{"security.nesting":"true"}}`},
		{"PATCH", "/1.0/profiles/default", `{"config":{"security.nesting":"true"}}`},
	} {
		text := done(c[0], c[1], c[2], false)
		if !fails(text) || !strings.Contains(text, `own\" doesn't allow`) && !strings.Contains(text, `shared\" doesn't allow`) {
			t.Errorf("%s %s %s: %s", c[0], c[1], c[2], text)
		}
	}
	if text := done("PUT", "/1.0/instances/c"+in, `{"restore":"s"}`, false); !strings.Contains(text, "what snapshot s would") {
		t.Errorf("it isn't said what is in the way: %s", text)
	}
	for _, path := range []string{"/1.0/instances/c" + in, "/1.0/profiles/default" + in} {
		if _, b := p.do("GET", path, ""); strings.Contains(string(b), `"security.nesting":"true"`) {
			t.Errorf("%s was changed: %s", path, b)
		}
	}
	if text := done("PATCH", "/1.0/instances/c"+in, `{"description":"x","config":{"limits.memory":"1GiB"}}`, false); fails(text) {
		t.Error(text)
	}

	// Isolation, snapshots and backups.
	p.admin(t, "POST", "/1.0/storage-pools/default/volumes/custom"+in, `{"name":"v"}`)
	for config, c := range map[string][3]string{
		`"restricted":"true"`: {"POST", "/1.0/instances/c/snapshots", `{"name":"s2"}`},
		`"restricted":"yes"`:  {"POST", "/1.0/storage-pools/default/volumes/custom/v/snapshots", `{"name":"s2"}`},
		`"restricted":"1"`:    {"POST", "/1.0/instances/c/backups", `{"name":"b"}`},
		`"restricted":"on"`:   {"POST", "/1.0/storage-pools/default/volumes/custom/v/backups", `{"name":"b"}`},
	} {
		rules(config)
		if text := done(c[0], c[1]+in, c[2], false); !fails(text) || !strings.Contains(text, "allow") {
			t.Errorf("%s: %s", c[1], text)
		}
		rules(config + `,"restricted.snapshots":"allow","restricted.backups":"allow"`)
		if text := done(c[0], c[1]+in, c[2], false); fails(text) {
			t.Errorf("%s where it is allowed: %s", c[1], text)
		}
	}
	for key, value := range map[string]string{"restricted.containers.privilege": "isolated",
		"restricted.networks.access": "other"} {
		resp, b := p.do("PUT", "/1.0/projects/own", `{"config":{`+features+`,"restricted":"true","`+key+`":"`+value+`"}}`)
		if resp.StatusCode != http.StatusConflict || !strings.Contains(string(b), `instance \"c\" has`) {
			t.Errorf("%s=%s: %d %s", key, value, resp.StatusCode, b)
		}
	}
	p.admin(t, "PATCH", "/1.0/instances/c"+in, `{"config":{"security.idmap.isolated":"true"}}`)
	rules(`"restricted":"true","restricted.containers.privilege":"isolated"`)
	if text := done("POST", "/1.0/instances"+in, `{"name":"z","source":{"type":"none"}}`, true); !fails(text) {
		t.Error(text)
	}
	if text := done("POST", "/1.0/instances"+in, `{"name":"z","source":{"type":"none"},
		"config":{"security.idmap.isolated":"true"}}`, true); fails(text) {
		t.Error(text)
	}

	// What can't be held to is no key.
	for config, kind := range map[string]string{
		`"restricted.cluster.target":"allow"`: "isn't supported", `"restricted.devices.pci":"allow"`: "nothing of that kind",
		`"restricted.devices.disk.paths":"/srv"`: "isn't supported", `"restricted.backups":"maybe"`: "one of block, allow",
		`"restricted":"perhaps"`: "restricted",
	} {
		resp, b := p.do("PUT", "/1.0/projects/own", `{"config":{`+features+`,`+config+`}}`)
		if resp.StatusCode < 400 || !strings.Contains(string(b), kind) {
			t.Errorf("%s: %d %s", config, resp.StatusCode, b)
		}
	}
}
