-- +goose Up
-- Which images an alias pointed to, by the order of id.
CREATE TABLE alias_history (
	id          INTEGER PRIMARY KEY,
	name        TEXT NOT NULL,
	fingerprint TEXT NOT NULL,
	at          TEXT NOT NULL
);
CREATE INDEX alias_history_name ON alias_history (name, id);
INSERT INTO alias_history (name, fingerprint, at) SELECT name, fingerprint, uploaded_at FROM image_aliases a JOIN images i ON i.id = a.image_id;
