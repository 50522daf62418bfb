-- +goose Up
CREATE TABLE networks (
	id          INTEGER PRIMARY KEY,
	project_id  BIGINT NOT NULL DEFAULT 1 REFERENCES projects (id),
	name        TEXT NOT NULL,
	description TEXT NOT NULL,
	config      TEXT NOT NULL, -- JSON
	bridge      TEXT NOT NULL, -- the interface of this host; empty until it was needed first
	UNIQUE (project_id, name)
);
-- The addresses that instances have as long as they exist.
CREATE TABLE network_leases (
	instance_id BIGINT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
	device      TEXT NOT NULL,
	network_id  BIGINT NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
	mac         TEXT NOT NULL,
	address     TEXT NOT NULL, -- IPv4; empty: none
	address6    TEXT NOT NULL, -- IPv6; empty: none
	PRIMARY KEY (instance_id, device)
);
CREATE UNIQUE INDEX network_leases_address ON network_leases (network_id, address) WHERE address <> '';
