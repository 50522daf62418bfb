package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/place"
)

// byPeers reports whether an instance has to be copied by the protocol of LXD and Incus, since
// one of the servers is of these. The error is Unsupported for one that can't do that either.
func byPeers(ctx context.Context, from, to place.Place) (bool, error) {
	theirs := false
	for _, at := range []place.Place{from, to} {
		s, err := trustedServer(ctx, at)
		if err != nil {
			return false, err
		}
		if slices.Contains(s.APIExtensions, "kiln_instance_copy") {
			continue
		}
		if theirs = true; !slices.Contains(s.APIExtensions, "container_push") {
			return false, kiln.Errorf(kiln.Unsupported, "the server %q can't send and take instances; publish the instance as "+
				"an image and copy that (image copy), then launch it", at.Remote)
		}
	}
	return theirs, nil
}

// migrate copies an instance in one way, or in the first that works.
func (x *crossing) migrate(ctx context.Context, o *copyFlags) error {
	if err := x.describe(ctx, o); err != nil {
		return err
	}
	if err := x.free(ctx); err != nil {
		return err
	}
	x.app.say("Creating %s", x.to.Name)
	switch *o.mode {
	case pull:
		return x.migratePull(ctx)
	case push:
		return x.migratePush(ctx)
	case relay:
		return x.migrateRelay(ctx)
	}
	err := x.migratePull(ctx)
	var unreached unreachedError
	if ctx.Err() != nil || !errors.As(err, &unreached) {
		return err
	}
	x.app.remark("pull doesn't work (%v); copying by relay", err)
	return x.migrateRelay(ctx)
}

// describe says in the request what the copy is to be. By this protocol the client does: the
// target isn't told by the source.
func (x *crossing) describe(ctx context.Context, o *copyFlags) error {
	var there struct {
		api.InstancePut
		Description string
	}
	if _, err := x.from.Get(ctx, pathOf(x.from.Name), nil, &there); err != nil {
		return x.app.suggest(ctx, x.from, err)
	}
	put := there.InstancePut
	put.Description, put.Stateful = there.Description, false
	maps.DeleteFunc(put.Config, func(k, _ string) bool {
		return strings.HasPrefix(k, "volatile.") && k != "volatile.base_image" && !(x.move && instance.IsAddressKey(k))
	})
	if name := theirDisk(put.Devices, o.devices); name != "" && !o.hostAccess {
		return kiln.Errorf(kiln.Denied, "the device %q, which the server %q says the instance has, would show it %s of the "+
			"target; to want that, say so: --host-access", name, x.from.Remote, put.Devices[name]["source"])
	}
	if err := describe(&put, o.config, o.devices, o.pool); err != nil {
		return err
	}
	if p := o.chosenProfiles(); p != nil {
		put.Profiles = p
	}
	put.Ephemeral = put.Ephemeral || o.ephemeral
	x.post = api.InstancesPost{Name: x.to.Name, Type: "container", InstancePut: put, Source: api.InstanceSource{
		Type: "migration", InstanceOnly: o.only, HostAccess: o.hostAccess}}
	return nil
}

// offer has the source send the instance, to a target or to whoever has the secrets of the
// operation. end ends that.
func (x *crossing) offer(ctx context.Context, to *api.InstanceMigrateTarget) (op api.Operation, end func(),
	err error) {
	op, err = start(ctx, x.from, client.Request{Method: http.MethodPost, Path: pathOf(x.from.Name), Body: api.InstancePost{
		Rename: api.Rename{Name: x.to.Name, Migration: true}, InstanceOnly: x.post.Source.InstanceOnly,
		ContainerOnly: x.post.Source.InstanceOnly, Target: to}})
	return op, func() { drop(ctx, x.from, op.ID) }, err
}

// accept has the target wait for the instance, or fetch it.
func (x *crossing) accept(ctx context.Context, s api.InstanceSource) (api.Operation, error) {
	post := x.post
	s.Type, s.InstanceOnly, s.HostAccess = post.Source.Type, post.Source.InstanceOnly, post.Source.HostAccess
	post.Source = s
	return start(ctx, x.to, client.Request{Method: http.MethodPost, Path: "/1.0/instances", Body: post})
}

// reach gives the URL of an operation as another server reaches it, and the certificate that
// this one shows.
func (x *crossing) reach(ctx context.Context, at place.Place, op api.Operation) (url, certificate string, err error) {
	r, err := x.app.Config()
	if err != nil {
		return "", "", err
	}
	where, err := r.Reach(at.Remote)
	if err != nil {
		return "", "", err
	}
	s := api.ImagesPostSource{Server: where.Server, Certificate: where.Certificate}
	if r.Remotes[at.Remote].Unix() {
		if err := place.OverNetwork(ctx, at.Client, &s, x.relayVerb()); err != nil {
			return "", "", err
		}
	}
	return strings.TrimSuffix(s.Server, "/") + "/1.0/operations/" + op.ID, s.Certificate, nil
}

// secretsOf gives the secrets of the websockets of an operation.
func secretsOf(op api.Operation) map[string]string {
	secrets := map[string]string{}
	for _, name := range []string{"control", "fs"} {
		secrets[name], _ = op.Metadata[name].(string)
	}
	return secrets
}

func (x *crossing) migratePull(ctx context.Context) error {
	offer, end, err := x.offer(ctx, nil)
	if err != nil {
		return err
	}
	defer end()
	s := api.InstanceSource{Mode: pull, Secrets: secretsOf(offer)}
	if s.Operation, s.Certificate, err = x.reach(ctx, x.from, offer); errors.Is(err, kiln.Unsupported) {
		return unreachedError{err}
	} else if err != nil {
		return err
	}
	op, err := x.accept(ctx, s)
	if err != nil {
		return err
	}
	if _, err = x.app.await(ctx, x.to, op); err == nil {
		return nil
	}
	switch kiln.KindOf(err) {
	case kiln.Network, kiln.Timeout, kiln.Denied, kiln.Internal: // the last is all that others tell
		if x.waits(ctx, offer) {
			return unreachedError{err}
		}
	}
	return err
}

// unreachedError is the error of a target that didn't get to the source, which another way may.
type unreachedError struct{ error }

func (e unreachedError) Unwrap() error { return e.error }

// endTime is how long the source of a copy that failed may take to notice that the target has
// gone. One that still waits then has seen none.
const endTime = 3 * time.Second

// waits reports whether the source still waits for a target. What a target says of why it
// failed is a sentence with LXD and Incus, so that can't be asked.
func (x *crossing) waits(ctx context.Context, offer api.Operation) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*endTime)
	defer cancel()
	path := client.Path("/1.0/operations", offer.ID)
	until := url.Values{"timeout": {fmt.Sprint(int(endTime / time.Second))}}
	_, _ = x.from.Get(ctx, path+"/wait", until, nil) // which may be an error when it doesn't end
	var now api.Operation
	_, err := x.from.Get(ctx, path, nil, &now)
	return err == nil && now.StatusCode < 200
}

func (x *crossing) migratePush(ctx context.Context) error {
	op, err := x.accept(ctx, api.InstanceSource{Mode: push})
	if err != nil {
		return err
	}
	to := &api.InstanceMigrateTarget{Secrets: secretsOf(op)}
	if to.Operation, to.Certificate, err = x.reach(ctx, x.to, op); err == nil {
		var end func()
		if _, end, err = x.offer(ctx, to); err == nil {
			defer end()
		}
	}
	if err != nil {
		drop(ctx, x.to, op.ID)
		return err
	}
	_, err = x.app.await(ctx, x.to, op)
	return err
}

// migrateRelay carries what source and target say to each other.
func (x *crossing) migrateRelay(ctx context.Context) error {
	op, err := x.accept(ctx, api.InstanceSource{Mode: push})
	if err != nil {
		return err
	}
	offer, end, err := x.offer(ctx, nil)
	if err != nil {
		drop(ctx, x.to, op.ID)
		return err
	}
	defer end()
	carrying, stop := context.WithCancel(ctx)
	var carriers sync.WaitGroup
	defer carriers.Wait()
	defer stop()
	for _, name := range []string{"control", "fs"} {
		from, err := x.from.Connect(ctx, offer.ID, secretsOf(offer)[name])
		if err != nil {
			return err
		}
		defer from.CloseNow()
		to, err := x.to.Connect(ctx, op.ID, secretsOf(op)[name])
		if err != nil {
			return err
		}
		defer to.CloseNow()
		carriers.Go(func() { carry(carrying, from, to) })
		carriers.Go(func() { carry(carrying, to, from) })
	}
	if _, err = x.app.await(ctx, x.to, op); err != nil {
		return fmt.Errorf("copy instance %q: %w", x.from.Name, err)
	}
	_, err = x.from.Wait(ctx, offer.ID)
	return err
}

// carry hands on messages, until one side has no more.
func carry(ctx context.Context, from, to *websocket.Conn) {
	buf := make([]byte, 64<<10)
	for {
		kind, r, err := from.Reader(ctx)
		if err != nil {
			status := websocket.CloseStatus(err)
			if status == -1 {
				status = websocket.StatusGoingAway
			}
			_ = to.Close(status, "")
			return
		}
		w, err := to.Writer(ctx, kind)
		for err == nil {
			var n int
			var rerr error
			n, rerr = r.Read(buf)
			if n > 0 {
				_, err = w.Write(buf[:n])
			}
			if rerr != nil {
				break // its end, or that of the connection, which the next call tells
			}
		}
		if err != nil || w.Close() != nil {
			_ = from.Close(websocket.StatusGoingAway, "")
			return
		}
	}
}
