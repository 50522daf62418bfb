-- +goose Up
-- What the daemon couldn't do of what it does unasked. A warning goes with what it is about.
CREATE TABLE warnings (
	id            INTEGER PRIMARY KEY,
	uuid          TEXT NOT NULL UNIQUE,
	type          TEXT NOT NULL,
	instance_id   BIGINT REFERENCES instances (id) ON DELETE CASCADE, -- at most one of the three is set
	network_id    BIGINT REFERENCES networks (id) ON DELETE CASCADE,
	image_id      BIGINT REFERENCES images (id) ON DELETE CASCADE,
	status        TEXT NOT NULL, -- new, acknowledged, resolved
	count         BIGINT NOT NULL,
	first_seen_at TEXT NOT NULL,
	last_seen_at  TEXT NOT NULL,
	message       TEXT NOT NULL
);
CREATE INDEX warnings_instance ON warnings (instance_id);
CREATE INDEX warnings_network ON warnings (network_id);
CREATE INDEX warnings_image ON warnings (image_id);
