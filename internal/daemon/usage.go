package daemon

import (
	"context"
	"maps"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

// ImageUsage is what one image costs, in bytes.
type ImageUsage struct {
	Image   kiln.Image // zero but for the fingerprint when only instances have it
	InStore bool
	Stored  int64    // its files
	Shared  int64    // of them, in files that other images have too
	Tree    int64    // its unpacked tree
	Common  int64    // of that, with the trees of other images
	Kind    string   // of the tree
	UsedBy  []string // names of instances of the same project; when there are none, of snapshots "c1/snap0"
}

// StoreUsage is what images cost together, in bytes.
type StoreUsage struct {
	Images []ImageUsage
	Stored int64 // all blobs, each counted once
	Shared int64 // saved by images that have a file in common
	Trees  int64
	Free   int64
}

// ImageUsage tells what the images of a project, and those of its instances, cost and what is
// left.
func (d *Daemon) ImageUsage(ctx context.Context) (StoreUsage, error) {
	stored, err := d.Images.Usage(ctx)
	if err != nil {
		return StoreUsage{}, err
	}
	trees, err := d.pool.Images()
	if err != nil {
		return StoreUsage{}, err
	}
	instances, err := d.instances.List(ctx)
	if err != nil {
		return StoreUsage{}, err
	}
	byImage := map[kiln.Fingerprint]volume.ImageInfo{}
	u := StoreUsage{Stored: stored.Stored, Shared: stored.Shared, Free: stored.Free}
	for _, t := range trees {
		byImage[t.Fingerprint] = t
	}
	users := map[kiln.Fingerprint][]string{}
	for _, i := range instances {
		users[i.Base] = append(users[i.Base], i.Name)
	}
	for _, s := range stored.Images {
		t := byImage[s.Image.Fingerprint]
		delete(byImage, s.Image.Fingerprint)
		u.Trees += t.Bytes
		u.Images = append(u.Images, ImageUsage{
			Image: s.Image, InStore: true, Stored: s.Stored, Shared: s.Shared,
			Tree: t.Bytes, Common: t.Shared, Kind: t.Kind, UsedBy: users[s.Image.Fingerprint],
		})
	}
	for fp := range byImage {
		if len(users[fp]) == 0 { // perhaps a snapshot needs it, of before a rebuild
			if err := d.addSnapshots(ctx, users); err != nil {
				return StoreUsage{}, err
			}
			break
		}
	}
	for fp, t := range byImage {
		if len(users[fp]) == 0 {
			continue // another project's
		}
		u.Trees += t.Bytes
		u.Images = append(u.Images, ImageUsage{Image: kiln.Image{Fingerprint: fp}, Tree: t.Bytes, Common: t.Shared,
			Kind: t.Kind, UsedBy: users[fp]})
	}
	return u, nil
}

// addSnapshots adds the snapshots of a project to the users of images that no instance uses.
func (d *Daemon) addSnapshots(ctx context.Context, users map[kiln.Fingerprint][]string) error {
	list, err := d.db.AllSnapshotFiles(ctx)
	if err != nil {
		return err
	}
	found := map[kiln.Fingerprint][]string{}
	for _, s := range list {
		tree, err := d.pool.GetSnapshot(s.Files)
		if err == nil && len(users[tree.Base()]) == 0 { // one without files is told elsewhere
			found[tree.Base()] = append(found[tree.Base()], s.Instance+"/"+s.Name)
		}
	}
	maps.Copy(users, found)
	return nil
}
