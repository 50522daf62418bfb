-- +goose Up
-- Instances and snapshots name their profiles by id: to rename one is one row. Names that
-- no profile had are left out, and lists that can't be read are empty.
CREATE TABLE instances_profiles (
	instance_id BIGINT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
	position    INTEGER NOT NULL,
	profile_id  BIGINT NOT NULL REFERENCES profiles (id),
	PRIMARY KEY (instance_id, position)
);
CREATE INDEX instances_profiles_profile ON instances_profiles (profile_id);
INSERT INTO instances_profiles (instance_id, position, profile_id) SELECT i.id, e.key, p.id FROM instances i,
	json_each(CASE WHEN json_valid(i.profiles) AND substr(i.profiles, 1, 1) = '[' THEN i.profiles ELSE '[]' END) e
	JOIN profiles p ON p.project_id = i.project_id AND p.name = e.value;
CREATE TABLE instance_snapshots_profiles (
	snapshot_id BIGINT NOT NULL REFERENCES instance_snapshots (id) ON DELETE CASCADE,
	position    INTEGER NOT NULL,
	profile_id  BIGINT NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
	PRIMARY KEY (snapshot_id, position)
);
CREATE INDEX instance_snapshots_profiles_profile ON instance_snapshots_profiles (profile_id);
INSERT INTO instance_snapshots_profiles (snapshot_id, position, profile_id) SELECT s.id, e.key, p.id
	FROM instance_snapshots s JOIN instances i ON i.id = s.instance_id,
	json_each(CASE WHEN json_valid(s.profiles) AND substr(s.profiles, 1, 1) = '[' THEN s.profiles ELSE '[]' END) e
	JOIN profiles p ON p.project_id = i.project_id AND p.name = e.value;
ALTER TABLE instances DROP COLUMN profiles;
ALTER TABLE instance_snapshots DROP COLUMN profiles;
