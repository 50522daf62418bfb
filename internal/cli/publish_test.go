package cli

import (
	"testing"
	"time"
)

func TestTimestamp(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.FixedZone("", 3600))
	for v, want := range map[string]string{
		"now": "2026-05-06T06:08:09Z", "2030-01-31": "2030-01-31T00:00:00Z",
		"2030-01-31T12:00:00+02:00": "2030-01-31T10:00:00Z", "0": "1970-01-01T00:00:00Z",
		"1700000000": "2023-11-14T22:13:20Z", "@1700000000": "2023-11-14T22:13:20Z",
		"": "", "-1": "", "later": "", "30d": "", "9999999999999999": "", "2030-13-01": "",
	} {
		got, err := timestamp(v, now)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is %v", v, got)
		case want != "" && (err != nil || got.Format(time.RFC3339) != want):
			t.Errorf("%q is %v, want %s, %v", v, got, want, err)
		}
	}
}
