-- +goose Up
-- "client", or "metrics" of one that may only read these.
ALTER TABLE certificates ADD COLUMN type TEXT NOT NULL DEFAULT 'client';
