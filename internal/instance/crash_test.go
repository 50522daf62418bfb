package instance

import (
	"errors"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

func TestMayGoOn(t *testing.T) {
	s := &Set{short: map[string]int{}}
	short := func(n int) (went int) {
		for range n {
			if s.mayGoOn("a", time.Second) {
				went++
			}
		}
		return went
	}
	if n := short(2 * mostShort); n != mostShort-1 {
		t.Errorf("%d short lives may be followed by another", n)
	}
	if !s.mayGoOn("b", 0) {
		t.Error("another instance pays for it")
	}
	if !s.mayGoOn("a", shortLife) || short(1) != 1 {
		t.Error("a long life doesn't count")
	}
	short(mostShort)
	s.forgetCrashes("a")
	if short(1) != 1 {
		t.Error("a start by a user doesn't count")
	}
}

// TestBeginAgainPauses has an instance whose reboot failed and that can't be started either:
// the pauses between the tries grow, the last one is the end, and a stop is, too.
func TestBeginAgainPauses(t *testing.T) {
	s, _, p := set(t)
	for n, last := 1, time.Duration(0); n <= 2*mostShort; n++ {
		if now := s.pauseAfter(n); now > longestPause || now <= last && now != longestPause {
			t.Errorf("pause %d is %v, after %v", n, now, last)
		} else {
			last = now
		}
	}
	options := map[string]string{"raw.lxc": "lxc.init.cmd = /bin/none"}
	create(t, s, p, "c", Config{Options: options})
	failed := errors.New("the reboot failed")
	if err := s.planRestart(t.Context(), "c", false); err != nil {
		t.Fatal(err)
	}
	s.restartPause = time.Microsecond
	s.beginAgain(t.Context(), "c", "uuid-c", 0, failed)
	i, err := s.Get(t.Context(), "c")
	if err != nil || i.Options[crashKey] == "" || i.Options[restartKey] != "" || s.short["uuid-c"] != mostShort {
		t.Errorf("%+v, %v, %d", i.Options, err, s.short["uuid-c"])
	}

	create(t, s, p, "d", Config{Options: options})
	if err := s.planRestart(t.Context(), "d", false); err != nil {
		t.Fatal(err)
	}
	s.restartPause = longestPause
	begun, ended := time.Now(), make(chan bool)
	go func() {
		s.beginAgain(t.Context(), "d", "uuid-d", 0, failed)
		close(ended)
	}()
	for s.Stop(t.Context(), "d", 0, false) != nil { // until it waits
		if time.Since(begun) > time.Minute {
			t.Fatal("nothing was there to stop")
		}
		time.Sleep(time.Millisecond)
	}
	<-ended
	i, err = s.Get(t.Context(), "d")
	if err != nil || i.Options[crashKey] != "" || i.Options[restartKey] != "" || s.short["uuid-d"] > 1 {
		t.Errorf("stopped: %+v, %v, %d", i.Options, err, s.short["uuid-d"])
	}
	if err := s.Stop(t.Context(), "d", 0, true); !errors.Is(err, kiln.Conflict) {
		t.Errorf("stopped twice: %v", err)
	}
}
