package migrate

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kiln-containers/kiln"
)

// TestWire reads a header as LXD 5.0.2 sends it of an instance that runs.
func TestWire(t *testing.T) {
	wire, err := hex.DecodeString("080010021a0f0801100018a08d0620002881ade2041a0f0800100118a08d0620002881ade204220273302aa9010a02733012" +
		"1f0a19766f6c6174696c652e6c6173745f73746174652e69646d617012025b5d12570a13766f6c6174696c652e626173655f" +
		"696d616765124039636236373135336534353930343730323863343737656265343561613130373239353465653334386232" +
		"3063373430623361306234653961333131626139661a0764656661756c742000300238004090dbabd806488092b8c398feff" +
		"ffff01508092b8c398feffffff013800420808011001180120016801")
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHeader(wire)
	if err != nil {
		t.Fatal(err)
	}
	want := Header{Processes: JustFiles, Names: []string{"s0"},
		IDs:      []IDRange{{Users: true, Host: 100000, Count: 10000001}, {Groups: true, Host: 100000, Count: 10000001}},
		Features: &Features{Xattrs: true, Delete: true, Compress: true, Bidirectional: true},
		Snapshots: []Snapshot{{Name: "s0", Profiles: []string{"default"}, Architecture: 2,
			CreatedAt: time.Unix(1795878288, 0).UTC(), Devices: map[string]map[string]string{},
			Config: map[string]string{"volatile.last_state.idmap": "[]", "volatile.base_image": "9cb67153e459047028c477ebe45aa1072954ee348b20c740b3a0b4e9a311ba9f"}}}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	if Arch(h.Snapshots[0].Architecture) != "x86_64" || ArchNumber("x86_64") != 2 {
		t.Error(Arch(2), ArchNumber("x86_64"))
	}
	if got := JSON(h.IDs[:1]); got != `[{"Isuid":true,"Isgid":false,"Hostid":100000,"Nsid":0,"Maprange":10000001}]` {
		t.Error(got)
	}
}

func full() Header {
	then := time.Unix(1_700_000_000, 0).UTC()
	return Header{FS: RSYNC, Processes: JustFiles, IDs: []IDRange{{true, false, 100000, 0, 65536}},
		Names: []string{"s0"}, Features: &Features{Xattrs: true, Delete: true, Links: true}, Refresh: true,
		Snapshots: []Snapshot{{Name: "s0", Config: map[string]string{"user.x": "y"}, Profiles: []string{"default"},
			Devices: map[string]map[string]string{"root": {"type": "disk", "path": "/"}}, Architecture: 2, Stateful: true,
			Ephemeral: true, CreatedAt: then, ExpiresAt: then}}}
}

// TestRoundTrip reads what was written, and no half of it as a whole.
func TestRoundTrip(t *testing.T) {
	b := full().Marshal()
	h, err := ParseHeader(b)
	if diff := cmp.Diff(full(), h); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := ParseHeader(b[:len(b)-1]); !errors.Is(err, kiln.Invalid) {
		t.Error("half a header:", err)
	}
	c, err := ParseControl(Control{Message: "no space"}.Marshal())
	if err != nil || c != (Control{Message: "no space"}) {
		t.Error(c, err)
	}
}

// TestMany refuses what would take much more memory than it has bytes.
func TestMany(t *testing.T) {
	b := []byte(strings.Repeat("\x22\x00", maxValues+1))
	if _, err := ParseHeader(b); !errors.Is(err, kiln.TooLarge) {
		t.Error(err)
	}
	group := protowire.AppendTag(nil, 1, protowire.StartGroupType)
	if _, err := ParseHeader([]byte(strings.Repeat(string(group), 1000))); !errors.Is(err, kiln.Invalid) {
		t.Error(err)
	}
}

// FuzzMessages has whatever comes be an error, or something that stays the same when it is
// written and read again.
func FuzzMessages(f *testing.F) {
	f.Add(full().Marshal())
	f.Add(Control{true, ""}.Marshal())
	f.Add(Control{false, "no"}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHeader(b); err == nil {
			again, err := ParseHeader(h.Marshal())
			if diff := cmp.Diff(h, again); diff != "" || err != nil {
				t.Error(err, diff)
			}
		}
		if c, err := ParseControl(b); err == nil {
			if again, err := ParseControl(c.Marshal()); again != c || err != nil {
				t.Error(again, err)
			}
		}
	})
}
