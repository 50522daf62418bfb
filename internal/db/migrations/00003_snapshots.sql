-- +goose Up
CREATE TABLE instance_snapshots (
	instance     TEXT NOT NULL REFERENCES instances (name) ON UPDATE CASCADE ON DELETE CASCADE,
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
	PRIMARY KEY (instance, name)
);
