package box

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStartNics reads the interfaces that liblxc is told of, and no others.
func TestStartNics(t *testing.T) {
	want := []Nic{
		{Name: "eth0", Parent: "kilnbr0", HostName: "kiln0", MAC: "00:16:3e:01:02:03", MTU: 1400,
			IPv4: netip.MustParsePrefix("10.1.2.3/24"), Gateway: netip.MustParseAddr("10.1.2.1"),
			IPv6: netip.MustParsePrefix("fd00::3/64")},
		{Kind: MACVLAN, Name: "eth1", Parent: "eno1"}, {Kind: Physical, Name: "eth2", Parent: "eno2"},
	}
	var c config
	c.set("lxc.uts.name", "x")
	c.nics(want)
	c.set("lxc.environment", "lxc.net.9.name = eth9")
	b := &Box{dir: t.TempDir()}
	if got, err := b.StartNics(); err == nil {
		t.Errorf("without a file: %+v", got)
	}
	if err := os.WriteFile(filepath.Join(b.dir, configFile), []byte(c.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := b.StartNics()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
