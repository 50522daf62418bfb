package instance

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// Claim keeps a name for an instance that is to be made, until release is called:
// another one of that name can't be begun meanwhile. Without a name, one is made up.
// Errors: Invalid, Conflict.
func (s *Set) Claim(ctx context.Context, name string) (claimed string, release func(), err error) {
	if name != "" {
		release, err := s.claim(ctx, name)
		return name, release, err
	}
	for try := 0; ; try++ {
		name := madeUpName(try)
		release, err := s.claim(ctx, name)
		if !errors.Is(err, kiln.Conflict) {
			return name, release, err
		}
	}
}

func (s *Set) claim(ctx context.Context, name string) (release func(), err error) {
	if err := kiln.CheckInstanceName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	taken := s.claimed[key(ctx, name)]
	if !taken {
		s.claimed[key(ctx, name)] = true
	}
	s.mu.Unlock()
	if taken {
		return nil, kiln.Errorf(kiln.Conflict, "Instance %q already exists: it is being made; wait for that (kiln operation "+
			"list), or give another name", name)
	}
	release = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.claimed, key(ctx, name))
	}
	_, err = s.db.Instance(ctx, name)
	if errors.Is(err, kiln.NotFound) {
		return release, nil
	}
	release()
	if err == nil {
		err = conflict(name)
	}
	return nil, err
}

// The words that made-up names consist of.
const (
	adjectives = "able bold brave bright calm civil clear deft fair fast fine firm fond glad grand keen " +
		"kind light lucky merry neat noble prime proud quick quiet rapid ready sharp smart solid sound spry stable steady " +
		"strong sunny swift tidy true vital warm wise"
	animals = "ant ape badger bat bear bee bison boar buck bull cat civet cod colt crab crane crow " +
		"deer dingo dove drake duck eagle eel elk falcon ferret finch fox frog gecko goat goose grouse hare hawk heron " +
		"horse ibex jay koala lark lemur lion lynx mole moose moth mouse newt okapi orca osprey otter owl panda perch " +
		"pika puma quail rabbit ram raven robin salmon seal shark shrew skunk sloth snail stork swan tapir tern tiger " +
		"toad trout viper vole walrus wasp weasel whale wolf wombat wren yak zebra"
)

// madeUpName gives a name for the nth attempt to find one that is free. There are some
// thousands of two words; when a few of them were taken, a number follows.
func madeUpName(try int) string {
	a, b := strings.Fields(adjectives), strings.Fields(animals)
	name := a[rand.IntN(len(a))] + "-" + b[rand.IntN(len(b))]
	if try > 3 {
		name += "-" + strconv.Itoa(rand.IntN(1_000_000))
	}
	return name
}
