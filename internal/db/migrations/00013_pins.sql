-- +goose Up
-- What is known of keys that images of remotes are pinned to (signing.Pin).
CREATE TABLE pins (
	pinned  TEXT PRIMARY KEY, -- public key, as somebody pinned it
	state   TEXT NOT NULL,    -- JSON
	used_at TEXT NOT NULL
);
