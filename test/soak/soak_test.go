// Package soak kills daemons in the middle of everything they can do, again and
// again, and looks at what the next ones have: nothing half-made, nothing lost that
// somebody was told is done, nothing left over.
//
// It runs a few rounds, or for as long as KILN_SOAK says: make soak SOAK=1h.
// KILN_SOAK_SEED repeats the choices of a run, though not its moments.
package soak

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/network/nettest"
	"github.com/kiln-containers/kiln/test/machine"
)

const (
	rounds  = 16 // without KILN_SOAK
	workers = 4
	stall   = 5 * time.Second // how long daemons and clients let others keep them waiting
	bound   = time.Minute     // for what takes a second on a machine with nothing else to do
)

// TestMain builds the command.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	nettest.Isolate()
	remove, err := machine.Build("../..", stall)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	return m.Run()
}

// A soak is two machines, whose daemons are killed, and workers, who don't get in each
// other's way: what each of them is told can be compared with what is there later.
type soak struct {
	t       *testing.T
	random  *rand.Rand
	nodes   []*node
	workers []*worker

	mu         sync.Mutex
	killed     map[*node]time.Time // in this round
	kills      int                 // of daemons that answered
	early      int                 // of daemons that were starting
	done       map[string]int      // acknowledged, by verb
	broken     map[string]int      // interrupted, by verb
	violations int
}

// TestSoak kills daemons.
func TestSoak(t *testing.T) {
	seed := rand.Uint64()
	if v := os.Getenv("KILN_SOAK_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal("KILN_SOAK_SEED: ", err)
		}
	}
	more := func(round int, _ time.Time) bool { return round < rounds }
	if v := os.Getenv("KILN_SOAK"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal("KILN_SOAK: ", err)
		}
		more = func(_ int, from time.Time) bool { return time.Since(from) < d }
	}
	t.Logf("KILN_SOAK_SEED=%d", seed)
	s := newSoak(t, seed)
	defer s.report(seed)
	from := time.Now()
	for round := 0; more(round, from) && s.violations < 20; round++ {
		s.round()
		if round%20 == 19 {
			t.Logf("%v: %d kills, %d acknowledged, %d violations", time.Since(from).Round(time.Second), s.kills,
				sum(s.done), s.violations)
		}
	}
	s.checkAll()
	s.empty()
}

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{t: t, random: rand.New(rand.NewPCG(seed, 0)), done: map[string]int{}, broken: map[string]int{}}
	for _, name := range []string{"a", "b"} {
		s.nodes = append(s.nodes, newNode(t, name))
	}
	a, b := s.nodes[0], s.nodes[1]
	a.other, b.other = b, a
	a.trusts(t)
	b.trusts(t)
	for i := range workers {
		s.workers = append(s.workers, newWorker(s, i, seed))
	}
	return s
}

// round has the workers work until a daemon dies, and looks at what the next one has.
func (s *soak) round() {
	s.mu.Lock()
	s.killed = nil
	s.mu.Unlock()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, w := range s.workers {
		wg.Go(func() { w.work(stop) })
	}
	time.Sleep(min(time.Duration(s.random.ExpFloat64()*float64(500*time.Millisecond)), 3*time.Second))
	victims := []*node{s.nodes[s.random.IntN(len(s.nodes))]}
	if s.random.IntN(8) == 0 {
		victims = s.nodes
	}
	s.mu.Lock()
	s.killed = map[*node]time.Time{}
	for _, n := range victims {
		s.killed[n] = time.Now()
	}
	s.mu.Unlock()
	for _, n := range victims {
		n.End(os.Kill)
		s.kills++
	}
	close(stop)
	wg.Wait()
	for _, n := range victims {
		s.restart(n)
	}
	s.check(victims)
}

// restart starts the daemon of a machine, and kills some that are starting.
func (s *soak) restart(n *node) {
	s.t.Helper()
	n.remember()
	for s.random.IntN(4) == 0 {
		if err := n.Launch(); err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(time.Duration(s.random.Int64N(int64(300 * time.Millisecond))))
		n.End(os.Kill)
		n.remember()
		s.early++
	}
	if err := n.Start(s.t.Context(), bound); err != nil {
		s.violation("a daemon doesn't start: %v", err)
		s.t.FailNow()
	}
}

// violation tells that something must not be as it is.
func (s *soak) violation(format string, args ...any) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations++
	s.t.Errorf("%s violation: "+format, append([]any{time.Now().UTC().Format("15:04:05.000")}, args...)...)
}

// report says what the soak did.
func (s *soak) report(seed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Logf("seed %d: %d kills of daemons at work, %d of starting ones; %d operations acknowledged, %d interrupted; "+
		"%d violations", seed, s.kills, s.early, sum(s.done), sum(s.broken), s.violations)
	for _, verb := range slices.Sorted(maps.Keys(s.done)) {
		s.t.Logf("%-16s %5d acknowledged %4d interrupted", verb, s.done[verb], s.broken[verb])
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}
