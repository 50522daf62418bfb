-- +goose Up
CREATE TABLE images (
	id           INTEGER PRIMARY KEY,
	fingerprint  TEXT NOT NULL UNIQUE,
	type         TEXT NOT NULL,
	architecture TEXT NOT NULL,
	size         BIGINT NOT NULL,
	filename     TEXT NOT NULL,
	public       BOOLEAN NOT NULL,
	auto_update  BOOLEAN NOT NULL,
	cached       BOOLEAN NOT NULL,
	created_at   TEXT NOT NULL, -- times are RFC 3339 in UTC, empty when unset
	expires_at   TEXT NOT NULL,
	last_used_at TEXT NOT NULL,
	uploaded_at  TEXT NOT NULL,
	properties   TEXT NOT NULL, -- JSON, for reading; image_properties is for finding
	profiles     TEXT NOT NULL  -- JSON
);
CREATE TABLE image_files (
	image_id BIGINT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
	position INTEGER NOT NULL,
	role     TEXT NOT NULL,
	hash     TEXT NOT NULL,
	size     BIGINT NOT NULL,
	name     TEXT NOT NULL,
	ext      TEXT NOT NULL,
	PRIMARY KEY (image_id, position)
);
CREATE INDEX image_files_hash ON image_files (hash);
CREATE TABLE image_properties (
	image_id BIGINT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
	key      TEXT NOT NULL,
	value    TEXT NOT NULL, -- lower case
	PRIMARY KEY (image_id, key)
);
CREATE INDEX image_properties_value ON image_properties (key, value, image_id);
CREATE TABLE image_aliases (
	name        TEXT PRIMARY KEY,
	description TEXT NOT NULL,
	image_id    BIGINT NOT NULL REFERENCES images (id) ON DELETE CASCADE
);
CREATE INDEX image_aliases_image ON image_aliases (image_id);
CREATE TABLE profiles (
	name        TEXT PRIMARY KEY,
	description TEXT NOT NULL,
	config      TEXT NOT NULL, -- JSON
	devices     TEXT NOT NULL  -- JSON
);
CREATE TABLE instances (
	name         TEXT PRIMARY KEY,
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
	profiles     TEXT NOT NULL  -- JSON, in order
);
CREATE TABLE config (
	key   TEXT PRIMARY KEY,
	value TEXT NOT NULL
);
