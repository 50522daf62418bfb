package cli

import (
	"testing"

	"github.com/kiln-containers/kiln/internal/place"
)

// TestHints has commands in messages name the server and the project that they are about.
func TestHints(t *testing.T) {
	h := hints{(&app{Resolver: &place.Resolver{}}).root()}
	for text, want := range map[string][2]string{ // on a remote, and in a project
		`no instance "x"; see: kiln list`: {`no instance "x"; see: kiln list srv:`,
			`no instance "x"; see: kiln list --project p`},
		`see: kiln storage volume list default`: {`see: kiln storage volume list srv:default`,
			`see: kiln storage volume list --project p default`},
		"delete some (kiln delete c1/SNAPSHOT), or: kiln config edit c1": {
			"delete some (kiln delete srv:c1/SNAPSHOT), or: kiln config edit srv:c1",
			"delete some (kiln delete --project p c1/SNAPSHOT), or: kiln config edit --project p c1"},
		"with: kiln config set web-1 security.protection.start=false": {
			"with: kiln config set srv:web-1 security.protection.start=false",
			"with: kiln config set --project p web-1 security.protection.start=false"},
		`listen: kiln config set core.https_address ":8443"`: {`listen: kiln config set srv: core.https_address ":8443"`,
			`listen: kiln config set --project p core.https_address ":8443"`},
		"\n  cure: kiln network create n0, and: kiln config device add c9 eth0 nic network=n0": {
			"\n  cure: kiln network create srv:n0, and: kiln config device add srv:c9 eth0 nic network=n0",
			"\n  cure: kiln network create n0, and: kiln config device add --project p c9 eth0 nic network=n0"},
		"use SFTP, or: kiln exec c1 -- tar -c": {"use SFTP, or: kiln exec srv:c1 -- tar -c",
			"use SFTP, or: kiln exec --project p c1 -- tar -c"},
		"copy that one: kiln copy c1/s0 NEW": {"copy that one: kiln copy srv:c1/s0 srv:NEW",
			"copy that one: kiln copy --project p c1/s0 NEW"},
		"it is said: kiln delete srv:c1": {"it is said: kiln delete srv:c1", "it is said: kiln delete --project p srv:c1"},
		"with: kiln import FILE":         {"with: kiln import srv: FILE", "with: kiln import --project p FILE"},
		"see: kiln project list":         {"see: kiln project list srv:", "see: kiln project list"},
		"make room: kiln image prune, kiln delete, or kiln file delete c1/x": {
			"make room: kiln image prune srv:, kiln delete, or kiln file delete srv:c1/x",
			"make room: kiln image prune --project p, kiln delete --project p, or kiln file delete --project p c1/x"},
		"damaged; see kiln scrub status, and wait": {"damaged; see kiln scrub status srv:, and wait",
			"damaged; see kiln scrub status, and wait"},
		"see: kiln operation list.": {"see: kiln operation list srv:.", "see: kiln operation list."},

		// Of the host of the server or of this one, and what is no command.
		"stop the daemon, then: kiln admin restore-database": {}, "again: kiln remote add <name> <token>": {},
		`token there with "kiln config trust add --name x"`: {}, "kiln has no clusters": {}, "by hand: kiln": {},
		"this client: kiln image copy --mode relay": {"", "this client: kiln image copy --project p --mode relay"},
		"as kiln storage volume export writes them": {}, "see: kiln network": {},
	} {
		for i, got := range []string{h.retell(text, "srv", ""), h.retell(text, "", "p")} {
			expected := want[i]
			if expected == "" {
				expected = text
			}
			if got != expected {
				t.Errorf("%q:\n%q, want\n%q", text, got, expected)
			}
		}
		if got := h.retell(text, "", ""); got != text {
			t.Errorf("%q: %q", text, got)
		}
	}
}
