-- +goose Up
-- What is led to instances, by the address of the host that it is sent to: JSON.
ALTER TABLE networks ADD COLUMN forwards TEXT NOT NULL DEFAULT '{}';
