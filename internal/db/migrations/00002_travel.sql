-- +goose Up
-- Where an image came from: JSON, and what it is found by. Both are empty when
-- that isn't known.
ALTER TABLE images ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN origin_key TEXT NOT NULL DEFAULT '';
-- What users laid over the properties that came with the image, JSON; an empty
-- value took one away.
ALTER TABLE images ADD COLUMN own_properties TEXT NOT NULL DEFAULT '{}';
-- The newer version that took the aliases over, and when.
ALTER TABLE images ADD COLUMN replaced_by TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN replaced_at TEXT NOT NULL DEFAULT '';
CREATE INDEX images_origin_key ON images (origin_key);
CREATE TABLE certificates (
	fingerprint TEXT PRIMARY KEY,
	name        TEXT NOT NULL,
	description TEXT NOT NULL,
	restricted  BOOLEAN NOT NULL,
	projects    TEXT NOT NULL, -- JSON
	certificate TEXT NOT NULL, -- PEM
	added_at    TEXT NOT NULL
);
CREATE TABLE mirrors (
	name         TEXT PRIMARY KEY,
	remote       TEXT NOT NULL, -- JSON
	filters      TEXT NOT NULL, -- JSON
	keep         INTEGER NOT NULL,
	pull_through BOOLEAN NOT NULL,
	public       BOOLEAN NOT NULL,
	last_run_at  TEXT NOT NULL,
	last_error   TEXT NOT NULL
);
