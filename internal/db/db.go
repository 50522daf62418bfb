// Package db keeps the rows: images, aliases, instances, profiles and settings.
// All SQL is here. It runs on SQLite and keeps to what PostgreSQL understands as
// well. The package doesn't know what the rows are used for.
package db

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

//go:embed migrations
var migrations embed.FS

// A DB is an open database, which no other process can read meanwhile. One connection
// writes, a few read.
type DB struct {
	write *sql.DB
	read  *readers
	moves atomic.Uint64

	changed func(Changes) // nil: nobody wants to know

	accessed func(context.Context, Access) // nil: nobody wants to know
	forbids  Forbids
	unbound  bool

	dir     string
	log     string // its file
	reserve *disk.Reserve
}

// reserved is how many bytes are kept for what must go on on a full disk.
const reserved = 16 << 20

// logged is how many bytes of the log take room before they are written: it begins anew
// at about half of that, once what is in it is in the database.
const logged = 8 << 20

// driver is SQLite whose log stays when the database is closed, and with it the room that
// it has.
const driver = "sqlite3-kiln"

func init() {
	sql.Register(driver, &sqlite3.SQLiteDriver{ConnectHook: func(c *sqlite3.SQLiteConn) error {
		return c.SetFileControlInt("", sqlite3.SQLITE_FCNTL_PERSIST_WAL, 1)
	}})
}

// mostReaders is how many connections read at once.
const mostReaders = 4

// readers are the connections that read. What they are asked is counted.
type readers struct {
	*sql.DB
	asked atomic.Uint64
}

// QueryContext is that of queryer.
func (r *readers) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	r.asked.Add(1)
	return r.DB.QueryContext(ctx, query, args...)
}

// QueryRowContext is that of queryer.
func (r *readers) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	r.asked.Add(1)
	return r.DB.QueryRowContext(ctx, query, args...)
}

// A viewed is a transaction of readers.
type viewed struct {
	*sql.Tx
	of *readers
}

// QueryContext is that of queryer.
func (v viewed) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	v.of.asked.Add(1)
	return v.Tx.QueryContext(ctx, query, args...)
}

// QueryRowContext is that of queryer.
func (v viewed) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	v.of.asked.Add(1)
	return v.Tx.QueryRowContext(ctx, query, args...)
}

// Queries counts what was asked since the database was opened, outside of transactions that write.
func (d *DB) Queries() uint64 { return d.read.asked.Load() }

// Open opens the database in a file, which it makes, and brings its tables up to
// date. Committed transactions survive a loss of power. The error is Unsupported
// when a newer kiln has had the database.
func Open(ctx context.Context, path string) (*DB, error) {
	reserve := disk.NewReserve(path+"-reserve", reserved)
	_ = reserve.Keep(filepath.Dir(path)) // without it, a full disk is told by what comes next
	fi, err := os.Stat(path)
	fresh := errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0
	d, err := openWith(ctx, path, reserve)
	for errors.Is(err, kiln.NoSpace) && reserve.Give() {
		d, err = openWith(ctx, path, reserve)
	}
	if err == nil && fresh { // SQLite has removed the log of a database without pages
		if err = errors.Join(d.Close(), os.Remove(path+"-wal")); err == nil {
			d, err = openWith(ctx, path, reserve)
		}
	}
	return d, err
}

func openWith(ctx context.Context, path string, reserve *disk.Reserve) (*DB, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	// An older kiln left it: the index of the log is in memory now.
	if err := os.Remove(path + "-shm"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_ = disk.Preallocate(path+"-wal", logged)    // without it, a full disk is told by what comes next
	file := (&url.URL{Path: path}).EscapedPath() // a "?" would begin the options
	dsn := func(more string) string {
		// unix-excl: nobody else has the database, so the index of its log needn't be a file that is mapped. To write
		// to a page of that takes room on file systems that copy on write: on a full one the kernel kills who does.
		return "file:" + file + "?vfs=unix-excl&_journal_mode=WAL&_foreign_keys=on&_busy_timeout=10000" +
			"&_synchronous=FULL" + more
	}
	write, err := sql.Open(driver, dsn("&_txlock=immediate"))
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open(driver, dsn("&_query_only=on"))
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read.SetMaxOpenConns(mostReaders)
	d := &DB{write: write, read: &readers{DB: read}, dir: filepath.Dir(path), log: path + "-wal", reserve: reserve}
	err = d.check(ctx)
	if err == nil {
		err = d.migrate(ctx)
	}
	if err != nil {
		return nil, errors.Join(kiln.Errorf(kiln.KindOf(known(err)), "open database %s: %w", path, err), read.Close(),
			write.Close())
	}
	return d, nil
}

// check looks through all pages. The error is Integrity when the file is damaged or
// another program's, whose tables ours must not be put beside.
func (d *DB) check(ctx context.Context) error {
	var result string
	if err := d.write.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&result); err != nil {
		return known(err)
	}
	if result != "ok" {
		return kiln.Errorf(kiln.Integrity, "it is damaged: %s; %s", result, remedy)
	}
	var tables, ours int
	err := d.write.QueryRowContext(ctx, `SELECT count(*), count(CASE WHEN name = 'goose_db_version' THEN 1 END)
		FROM sqlite_master WHERE type = 'table'`).Scan(&tables, &ours)
	if err == nil && tables > 0 && ours == 0 {
		err = kiln.Errorf(kiln.Integrity, "it is the database of another program; %s", remedy)
	}
	return known(err)
}

// remedy is what to do about a damaged database.
const remedy = "stop the daemon, then: kiln admin recover; or, for a copy as it is: " +
	"kiln admin restore-database"

// Backup writes a copy of the database to a file, as it is at one moment.
func (d *DB) Backup(ctx context.Context, path string) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer os.Remove(temp) // gone if it has its name
	if _, err := d.write.ExecContext(ctx, `VACUUM INTO ?`, temp); err != nil {
		return known(err)
	}
	f, err := os.OpenFile(temp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o600), disk.Sync(f), f.Close()); err != nil {
		return err
	}
	return disk.Rename(temp, path)
}

// Check reports whether a file is a whole database, without changing it. The error is
// Integrity.
func Check(ctx context.Context, path string) error {
	if fi, err := os.Stat(path); err != nil {
		return err
	} else if err := disk.CheckFile(path, fi); err != nil {
		return err
	} else if fi.Size() == 0 {
		return kiln.Errorf(kiln.Integrity, "%s is empty", path)
	}
	d, err := readOnly(path)
	if err != nil {
		return err
	}
	err = d.check(ctx)
	if err = errors.Join(err, d.write.Close()); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "%s: %w", path, err)
	}
	return nil
}

// Copy is Backup for a database that nobody has open, which stays as it is.
func Copy(ctx context.Context, from, to string) error {
	d, err := readOnly(from)
	if err != nil {
		return err
	}
	return errors.Join(d.Backup(ctx, to), d.write.Close())
}

// readOnly opens a file as it is. With a log beside it, what is only there counts; it
// isn't written back.
func readOnly(path string) (*DB, error) {
	// The index of the log in memory, as in openWith: an exclusive lock, which a file that is only read can't have.
	how := "?mode=ro&vfs=unix-none&_locking_mode=EXCLUSIVE"
	if _, err := os.Stat(path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		how = "?immutable=1" // without files of its own beside it
	}
	d, err := sql.Open(driver, "file:"+(&url.URL{Path: path}).EscapedPath()+how)
	if err != nil {
		return nil, err
	}
	d.SetMaxOpenConns(1)
	return &DB{write: d}, nil
}

// private makes the file before SQLite does, which would let every user read what
// instances are configured with. The files beside it get the same mode.
func private(path string) error {
	f, err := disk.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

func (d *DB) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, d.write, files)
	if err != nil {
		return err
	}
	has, knows, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if has > knows {
		return kiln.Errorf(kiln.Unsupported, "its tables have version %d, this kiln knows up to %d; use the kiln that "+
			"wrote them, or a newer one", has, knows)
	}
	_, err = p.Up(ctx)
	return err
}

// closeTime is how long Close waits for somebody who writes.
const closeTime = 10 * time.Second

// Close closes the database. What was written is in its file then, and its log is empty, though
// it keeps its room: of a log that says again what is in the database, a piece would bring
// older rows back. On a full disk the log may have to stay; the next who opens it goes on with it.
func (d *DB) Close() error {
	err := d.read.Close()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	var busy, frames, written int
	row := d.write.QueryRowContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`) // which waits for nobody who reads
	whole := row.Scan(&busy, &frames, &written) == nil && busy == 0 && frames == written
	if err = errors.Join(err, d.write.Close()); err != nil || !whole {
		return err
	}
	return emptyLog(d.log)
}

// emptyLog has the log of a database that is closed say nothing. Without its header, no frame
// in it counts: https://www.sqlite.org/fileformat2.html#walformat
func emptyLog(path string) error {
	f, err := disk.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() == 0 {
		return err
	}
	const header = 32
	if _, err := f.WriteAt(make([]byte, header), 0); err != nil {
		return err
	}
	return disk.Sync(f)
}

// A Tx is a transaction that writes.
type Tx struct {
	tx       *sql.Tx
	changes  Changes
	accesses []Access
	forbids  Forbids
	unbound  bool // what projects may have isn't asked
}

// WithReserve runs f, which is something else that must go on when the disk is full; it
// is then run again with what is reserved for that.
func (d *DB) WithReserve(f func() error) error { return d.reserve.Use(0, f) }

// WithSome is WithReserve for what containers can have done as often as they like: half
// of what is reserved is left for deletions.
func (d *DB) WithSome(f func() error) error { return d.reserve.Use(reserved/2, f) }

type freeingKey struct{}

// Freeing marks the work of who makes room, such as a deletion, or ends something: on a
// full disk its transactions have what is reserved for them.
func Freeing(ctx context.Context) context.Context { return context.WithValue(ctx, freeingKey{}, true) }

// Tx runs f in a transaction, which is committed when f returns nil. f sees and
// changes rows through the Tx only. On a full disk f is run again if ctx is Freeing's.
// Errors: those of f, NoSpace.
func (d *DB) Tx(ctx context.Context, f func(*Tx) error) error {
	_ = d.reserve.Keep(d.dir) // without it, a full disk is told by what comes next
	err := d.once(ctx, f)
	// Somebody else may take what is given away, and there are several pieces.
	for ctx.Value(freeingKey{}) != nil && errors.Is(err, kiln.NoSpace) && d.reserve.Give() {
		err = d.once(ctx, f)
	}
	return err
}

func (d *DB) once(ctx context.Context, f func(*Tx) error) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return known(err)
	}
	defer tx.Rollback()
	t := &Tx{tx: tx, forbids: d.forbids, unbound: d.unbound}
	err = f(t)
	if err == nil {
		err = tx.Commit()
		d.moves.Add(1) // before anybody is told that it is done
		if d.changed != nil {
			d.changed(t.changes) // also when the commit failed: nobody knows how far it got
		}
		for i := 0; err == nil && d.accessed != nil && i < len(t.accesses); i++ {
			d.accessed(ctx, t.accesses[i])
		}
	}
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		err = ctx.Err() // which has rolled it back
	}
	return known(err)
}

// Version is another number after each transaction of Tx. What was read since a
// version is known is at least as new, as long as it is still the version.
func (d *DB) Version() uint64 { return d.moves.Load() }

// known gives the errors of SQLite that have an obvious kind that.
func known(err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Code == sqlite3.ErrFull, e.SystemErrno == unix.ENOSPC:
		return kiln.Errorf(kiln.NoSpace, "write to the database: %w; make room: kiln image prune, kiln delete, or kiln file "+
			"delete in an instance", err)
	case e.Code == sqlite3.ErrCorrupt, e.Code == sqlite3.ErrNotADB:
		return kiln.Errorf(kiln.Integrity, "the database is damaged: %w; %s", err, remedy)
	}
	return err
}

// view runs f on the rows as they are at one moment, which several statements
// would not see by themselves.
func (d *DB) view(ctx context.Context, f func(queryer) error) error {
	tx, err := d.read.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return known(err)
	}
	defer tx.Rollback()
	return f(viewed{tx, d.read})
}

// queryer is what reads: a DB's readers or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// each calls scan for every row of a query.
func each(ctx context.Context, q queryer, query string, args []any, scan func(*sql.Rows) error) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return known(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return known(rows.Err())
}

// changed says NotFound when a statement changed no row.
func changed(r sql.Result, err error, what, name string) error {
	if err != nil {
		return conflict(err, what, name)
	}
	if n, err := r.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return kiln.Errorf(kiln.NotFound, "%s %q not found", what, name)
}

// conflict gives the error of a key that exists already its kind.
func conflict(err error, what, name string) error {
	var e sqlite3.Error
	if errors.As(err, &e) && (e.ExtendedCode == sqlite3.ErrConstraintUnique ||
		e.ExtendedCode == sqlite3.ErrConstraintPrimaryKey) {
		return kiln.Errorf(kiln.Conflict, "%s %q already exists; give another name", what, name)
	}
	return err
}

// found gives the error of a row that isn't there its kind.
func found(err error, what, name string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return kiln.Errorf(kiln.NotFound, "%s %q not found", what, name)
	}
	return known(err)
}

// jsonColumn stores a value as JSON.
type jsonColumn struct{ v any }

// Scan is database/sql's.
func (c jsonColumn) Scan(src any) error {
	switch s := src.(type) {
	case string:
		// Most columns of most rows are these: there is nothing to be read in them.
		switch v := c.v.(type) {
		case *map[string]string:
			if s == "{}" && *v == nil {
				*v = map[string]string{}
				return nil
			}
		case *[]string:
			if s == "[]" {
				*v = []string{}
				return nil
			}
		}
		return json.Unmarshal([]byte(s), c.v)
	case []byte:
		return json.Unmarshal(s, c.v)
	}
	return fmt.Errorf("a %T is no JSON", src)
}

func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps and lists of strings only
	}
	return string(b)
}

// originColumn stores an origin as JSON, "" when there is none.
type originColumn struct{ o **kiln.Origin }

// Scan is database/sql's.
func (c originColumn) Scan(src any) error {
	*c.o = nil
	if s, ok := src.(string); ok && s == "" {
		return nil
	}
	*c.o = &kiln.Origin{}
	return jsonColumn{*c.o}.Scan(src)
}

// timeColumn stores a time as text, "" when it is zero.
type timeColumn struct{ t *time.Time }

// Scan is database/sql's.
func (c timeColumn) Scan(src any) (err error) {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("a %T is no time", src)
	}
	t := time.Time{}
	if s != "" {
		t, err = time.Parse(time.RFC3339Nano, s)
	}
	if err == nil {
		*c.t = t
	}
	return err
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// zonedText is timeText for a time that people read in the zone they gave.
func zonedText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// hashColumn stores a fingerprint as text, "" when it is zero.
type hashColumn struct{ fp *kiln.Fingerprint }

// Scan is database/sql's.
func (c hashColumn) Scan(src any) (err error) {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("a %T is no fingerprint", src)
	}
	fp := kiln.Fingerprint{}
	if s != "" {
		fp, err = kiln.ParseFingerprint(s)
	}
	if err == nil {
		*c.fp = fp
	}
	return err
}

func hashText(fp kiln.Fingerprint) string {
	if fp.IsZero() {
		return ""
	}
	return fp.String()
}
