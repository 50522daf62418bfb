package cli

import (
	"context"
	"io"
	"strings"
	"testing"
)

// TestLogFormat hands the daemon how its log is written: kiln daemon --log-format json.
func TestLogFormat(t *testing.T) {
	for args, want := range map[string]struct {
		code int
		json bool
	}{"daemon": {0, false}, "daemon --log-format text": {0, false}, "daemon --log-format json": {0, true},
		"daemon --log-format xml": {2, false}} {
		var got *DaemonOptions
		code := Main(t.Context(), strings.Fields(args), Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard},
			Deps{Daemon: func(_ context.Context, o DaemonOptions) error { got = &o; return nil }})
		if code != want.code || (got != nil) != (code == 0) || got != nil && got.JSON != want.json {
			t.Errorf("%s: %d, %+v", args, code, got)
		}
	}
}
