package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/trust"
)

// TestCommandEndsWithItsOwner: a command whose websocket "control" nobody has connected
// ends when who has asked for it isn't trusted any more.
func TestCommandEndsWithItsOwner(t *testing.T) {
	p := start(t)
	fp := p.upload(formattest.Unified(t)).Metadata["fingerprint"].(string)
	p.admin(t, "POST", "/1.0/instances", `{"name":"c","source":{"type":"image","fingerprint":"`+fp+`"}}`)
	p.admin(t, "PUT", "/1.0/instances/c/state", `{"action":"start"}`)
	t.Cleanup(func() { p.finish("PUT", "/1.0/instances/c/state", `{"action":"stop","force":true}`) })
	address := p.network(t)
	cert := pair(t, time.Hour)
	if err := p.d.AddClient(t.Context(), cert.Leaf, daemon.Client{}); err != nil {
		t.Fatal(err)
	}
	hc := as(t, cert)
	resp, err := hc.Post("https://"+address+"/1.0/instances/c/exec", "application/json",
		strings.NewReader(`{"command":["sleep","1000"],"wait-for-websocket":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Operation string
		Metadata  struct {
			Metadata struct{ FDs map[string]string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatal(resp.StatusCode, err)
	}
	for _, fd := range []string{"0", "1", "2"} {
		c, _, err := websocket.Dial(t.Context(), "wss://"+address+answer.Operation+"/websocket?secret="+
			answer.Metadata.Metadata.FDs[fd], &websocket.DialOptions{HTTPClient: hc})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
	}
	o, err := p.d.Ops.Get(answer.Operation[strings.LastIndex(answer.Operation, "/")+1:])
	if err != nil {
		t.Fatal(err)
	}
	p.running(t, "c")
	if err := p.d.RemoveClient(t.Context(), trust.Fingerprint(cert.Leaf)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if s := o.Wait(ctx); !s.Status.Final() {
		t.Error("the command goes on")
		_ = o.Cancel()
	} else if s.Metadata["return"] != 137 {
		t.Errorf("the command ended with %v, not 137", s.Metadata["return"])
	}
}

// running waits until an instance has more than one process.
func (p *peer) running(t *testing.T, name string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var a struct{ Metadata api.InstanceState }
		_, b := p.do("GET", "/1.0/instances/"+name+"/state", "")
		if err := json.Unmarshal(b, &a); err == nil && a.Metadata.Processes > 1 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the command doesn't run: %s", b)
		}
	}
}
