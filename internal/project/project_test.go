package project

import (
	"context"
	"slices"
	"testing"

	"github.com/kiln-containers/kiln"
)

func TestForgotten(t *testing.T) {
	if _, err := Of(t.Context()); kiln.KindOf(err) != kiln.Internal {
		t.Errorf("no project: %v", err)
	}
	if _, _, err := Names(t.Context(), Images); kiln.KindOf(err) != kiln.Internal {
		t.Errorf("a list of no project: %v", err)
	}
	for what, ctx := range map[string]context.Context{"all": InAll(t.Context()), "none": Among(t.Context(), nil)} {
		if _, err := One(ctx, Instances); kiln.KindOf(err) != kiln.Internal {
			t.Errorf("one thing in %s: %v", what, err)
		}
	}
}

func TestNames(t *testing.T) {
	shared := Project{Name: "a", Images: Default, Profiles: "a"}
	for _, c := range []struct {
		ctx  context.Context
		kind Kind
		want []string
		all  bool
	}{
		{In(t.Context(), shared), Instances, []string{"a"}, false},
		{In(t.Context(), shared), Images, []string{Default}, false},
		{Like(t.Context(), In(t.Context(), shared)), Profiles, []string{"a"}, false},
		{InAll(t.Context()), Images, nil, true},
		{Among(t.Context(), []string{"a", "b"}), Images, []string{"a", "b"}, false},
		{Among(t.Context(), nil), Images, nil, false}, // somebody who may see none
	} {
		got, all, err := Names(c.ctx, c.kind)
		if err != nil || all != c.all || !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, %v, %v; want %v, %v", c.kind, got, all, err, c.want, c.all)
		}
	}
}
