-- +goose Up
-- Names are unique within a project, and rows refer to others by ids: a rename is one
-- row. Tables are made anew, children first, since SQLite can't change their keys.
CREATE TABLE projects (
	id          INTEGER PRIMARY KEY,
	name        TEXT NOT NULL UNIQUE,
	description TEXT NOT NULL,
	config      TEXT NOT NULL -- JSON
);
INSERT INTO projects (id, name, description, config) VALUES (1, 'default', 'Default kiln project', '{}');

CREATE TABLE new_images (
	id             INTEGER PRIMARY KEY,
	project_id     BIGINT NOT NULL DEFAULT 1 REFERENCES projects (id),
	fingerprint    TEXT NOT NULL,
	type           TEXT NOT NULL,
	architecture   TEXT NOT NULL,
	size           BIGINT NOT NULL,
	filename       TEXT NOT NULL,
	public         BOOLEAN NOT NULL,
	auto_update    BOOLEAN NOT NULL,
	cached         BOOLEAN NOT NULL,
	created_at     TEXT NOT NULL, -- times are RFC 3339 in UTC, empty when unset
	expires_at     TEXT NOT NULL,
	last_used_at   TEXT NOT NULL,
	uploaded_at    TEXT NOT NULL,
	properties     TEXT NOT NULL, -- JSON, for reading; image_properties is for finding
	profiles       TEXT NOT NULL, -- JSON
	origin         TEXT NOT NULL DEFAULT '', -- JSON, and what it is found by; empty when that isn't known
	origin_key     TEXT NOT NULL DEFAULT '',
	own_properties TEXT NOT NULL DEFAULT '{}', -- what users laid over the properties, JSON; "" took one away
	replaced_by    TEXT NOT NULL DEFAULT '', -- the newer version that took the aliases over, and when
	replaced_at    TEXT NOT NULL DEFAULT '',
	UNIQUE (project_id, fingerprint)
);
INSERT INTO new_images (id, fingerprint, type, architecture, size, filename, public, auto_update, cached, created_at,
	expires_at, last_used_at, uploaded_at, properties, profiles, origin, origin_key, own_properties, replaced_by, replaced_at)
	SELECT id, fingerprint, type, architecture, size, filename, public, auto_update, cached, created_at,
	expires_at, last_used_at, uploaded_at, properties, profiles, origin, origin_key, own_properties, replaced_by, replaced_at
	FROM images;
CREATE TABLE new_image_files (
	image_id BIGINT NOT NULL REFERENCES new_images (id) ON DELETE CASCADE,
	position INTEGER NOT NULL,
	role     TEXT NOT NULL,
	hash     TEXT NOT NULL,
	size     BIGINT NOT NULL,
	name     TEXT NOT NULL,
	ext      TEXT NOT NULL,
	PRIMARY KEY (image_id, position)
);
INSERT INTO new_image_files SELECT image_id, position, role, hash, size, name, ext FROM image_files;
CREATE TABLE new_image_properties (
	image_id BIGINT NOT NULL REFERENCES new_images (id) ON DELETE CASCADE,
	key      TEXT NOT NULL,
	value    TEXT NOT NULL, -- lower case
	PRIMARY KEY (image_id, key)
);
INSERT INTO new_image_properties SELECT image_id, key, value FROM image_properties;
CREATE TABLE new_image_aliases (
	id          INTEGER PRIMARY KEY,
	project_id  BIGINT NOT NULL DEFAULT 1 REFERENCES projects (id),
	name        TEXT NOT NULL,
	description TEXT NOT NULL,
	image_id    BIGINT NOT NULL REFERENCES new_images (id) ON DELETE CASCADE,
	UNIQUE (project_id, name)
);
INSERT INTO new_image_aliases (name, description, image_id) SELECT name, description, image_id FROM image_aliases;
DROP TABLE image_aliases;
DROP TABLE image_properties;
DROP TABLE image_files;
DROP TABLE images;
ALTER TABLE new_images RENAME TO images;
ALTER TABLE new_image_files RENAME TO image_files;
ALTER TABLE new_image_properties RENAME TO image_properties;
ALTER TABLE new_image_aliases RENAME TO image_aliases;
CREATE INDEX images_fingerprint ON images (fingerprint);
CREATE INDEX images_origin_key ON images (origin_key);
CREATE INDEX image_files_hash ON image_files (hash);
CREATE INDEX image_properties_value ON image_properties (key, value, image_id);
CREATE INDEX image_aliases_image ON image_aliases (image_id);

CREATE TABLE new_alias_history (
	id             INTEGER PRIMARY KEY,
	project_id     BIGINT NOT NULL DEFAULT 1 REFERENCES projects (id),
	name           TEXT NOT NULL,
	fingerprint    TEXT NOT NULL,
	at             TEXT NOT NULL,
	rolled_back_at TEXT NOT NULL DEFAULT '' -- empty: the alias wasn't rolled back from this version
);
INSERT INTO new_alias_history (id, name, fingerprint, at, rolled_back_at)
	SELECT id, name, fingerprint, at, rolled_back_at FROM alias_history;
DROP TABLE alias_history;
ALTER TABLE new_alias_history RENAME TO alias_history;
CREATE INDEX alias_history_name ON alias_history (project_id, name, id);

CREATE TABLE new_profiles (
	id          INTEGER PRIMARY KEY,
	project_id  BIGINT NOT NULL DEFAULT 1 REFERENCES projects (id),
	name        TEXT NOT NULL,
	description TEXT NOT NULL,
	config      TEXT NOT NULL, -- JSON
	devices     TEXT NOT NULL, -- JSON
	UNIQUE (project_id, name)
);
INSERT INTO new_profiles (name, description, config, devices) SELECT name, description, config, devices FROM profiles;
DROP TABLE profiles;
ALTER TABLE new_profiles RENAME TO profiles;

CREATE TABLE new_instances (
	id           INTEGER PRIMARY KEY,
	project_id   BIGINT NOT NULL DEFAULT 1 REFERENCES projects (id),
	name         TEXT NOT NULL,
	type         TEXT NOT NULL,
	architecture TEXT NOT NULL,
	description  TEXT NOT NULL,
	ephemeral    BOOLEAN NOT NULL,
	running      BOOLEAN NOT NULL,
	created_at   TEXT NOT NULL,
	last_used_at TEXT NOT NULL,
	base         TEXT NOT NULL, -- fingerprint of the image, may be empty
	config       TEXT NOT NULL, -- JSON
	devices      TEXT NOT NULL, -- JSON
	profiles     TEXT NOT NULL, -- JSON, in order
	UNIQUE (project_id, name)
);
INSERT INTO new_instances (name, type, architecture, description, ephemeral, running, created_at, last_used_at, base,
	config, devices, profiles) SELECT name, type, architecture, description, ephemeral, running, created_at,
	last_used_at, base, config, devices, profiles FROM instances;
CREATE TABLE new_instance_snapshots (
	id           INTEGER PRIMARY KEY,
	instance_id  BIGINT NOT NULL REFERENCES new_instances (id) ON DELETE CASCADE,
	name         TEXT NOT NULL,
	files        TEXT NOT NULL UNIQUE, -- names them in the pool
	created_at   TEXT NOT NULL,
	expires_at   TEXT NOT NULL,
	last_used_at TEXT NOT NULL, -- this and the rest are the instance's at that time
	architecture TEXT NOT NULL,
	description  TEXT NOT NULL,
	ephemeral    BOOLEAN NOT NULL,
	base         TEXT NOT NULL,
	config       TEXT NOT NULL, -- JSON
	devices      TEXT NOT NULL, -- JSON
	profiles     TEXT NOT NULL, -- JSON, in order
	UNIQUE (instance_id, name)
);
INSERT INTO new_instance_snapshots (instance_id, name, files, created_at, expires_at, last_used_at, architecture,
	description, ephemeral, base, config, devices, profiles) SELECT i.id, s.name, s.files, s.created_at, s.expires_at,
	s.last_used_at, s.architecture, s.description, s.ephemeral, s.base, s.config, s.devices, s.profiles
	FROM instance_snapshots s JOIN new_instances i ON i.name = s.instance;
DROP TABLE instance_snapshots;
DROP TABLE instances;
ALTER TABLE new_instances RENAME TO instances;
ALTER TABLE new_instance_snapshots RENAME TO instance_snapshots;
