package instance

import (
	"context"

	"github.com/kiln-containers/kiln/internal/db"
)

// Meaning has work mean this instance by its name, in the project that ctx is about, for as
// long as it takes: when another one has the name, everything that asks for it is a Conflict.
// It stays the same when its files are replaced.
func Meaning(ctx context.Context, i Instance) context.Context {
	id := BackupsOf(i.Options)
	return db.Meaning(ctx, i.Name, func(r db.Instance) bool {
		return BackupsOf(r.Config) == id && r.CreatedAt.Equal(i.CreatedAt)
	})
}

// MeaningUUID has work mean by a name the instance that a client has seen with a UUID, of its
// files (volatile.uuid) or of its backups: the latter stays the same when it is rebuilt.
func MeaningUUID(ctx context.Context, name, uuid string) context.Context {
	return db.Meaning(ctx, name, func(r db.Instance) bool {
		return r.Config[UUIDKey] == uuid || BackupsOf(r.Config) == uuid
	})
}

// meaningFiles has work mean by a name the instance whose files have a UUID.
func meaningFiles(ctx context.Context, name, uuid string) context.Context {
	return db.Meaning(ctx, name, func(r db.Instance) bool { return r.Config[UUIDKey] == uuid })
}

// MeaningNew has work mean by a name the instance that was made of files.
func MeaningNew(ctx context.Context, name string, f *Files) context.Context {
	return meaningFiles(ctx, name, f.UUID)
}

// Meaning has work mean by names the instance and the snapshot that have them now: "c1",
// "c1/snap0". Errors: NotFound, Conflict.
func (s *Set) Meaning(ctx context.Context, instance, snapshot string) (context.Context, error) {
	i, err := s.Get(ctx, instance)
	if err != nil {
		return ctx, err
	}
	ctx = Meaning(ctx, i)
	if snapshot == "" {
		return ctx, nil
	}
	row, err := s.snapshotRow(ctx, instance, snapshot)
	return db.MeaningSnapshot(ctx, row), err
}
