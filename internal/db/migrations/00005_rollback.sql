-- +goose Up
-- When an alias was rolled back from a version; empty: it wasn't. The version it
-- points to is the newest that it wasn't rolled back from.
ALTER TABLE alias_history ADD COLUMN rolled_back_at TEXT NOT NULL DEFAULT '';
