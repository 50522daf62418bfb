package db

import (
	"context"
	"database/sql"
)

// An InstanceName says whose files an instance has.
type InstanceName struct {
	Project, Name string
	Running       bool              // as far as was written down
	Config        map[string]string // its own; nil when that can't be read
}

// InstanceNames gives the instances of all projects, in one query. What of a row can't be read
// is left empty.
func (d *DB) InstanceNames(ctx context.Context) ([]InstanceName, error) {
	var list []InstanceName
	err := each(ctx, d.read, `SELECT p.name, i.name, i.running, i.config FROM instances i
		JOIN projects p ON p.id = i.project_id ORDER BY p.name, i.name`, nil, func(rows *sql.Rows) error {
		var i InstanceName
		var damage string
		err := rows.Scan(noted{"project", &i.Project, &damage}, noted{"name", &i.Name, &damage},
			noted{"running", &i.Running, &damage}, noted{"config", jsonColumn{&i.Config}, &damage})
		list = append(list, i)
		return err
	})
	return list, err
}

// An ImageCount counts the images of a project that have something in common.
type ImageCount struct {
	Project, Architecture string
	Public, Cached        bool
	Images, Bytes         int64
}

// Counts are how many of some things there are.
type Counts struct {
	Projects []string // their names
	Images   []ImageCount
	Files    int64            // of all images, each counted once
	Bytes    int64            // of these
	Warnings map[string]int64 // by type, those that are not resolved
}

// Counts counts, in one query. What of a row can't be read counts as nothing.
func (d *DB) Counts(ctx context.Context) (Counts, error) {
	c := Counts{Warnings: map[string]int64{}}
	err := each(ctx, d.read, `SELECT 'project', name, '', 0, 0, 0, 0 FROM projects
		UNION ALL SELECT 'images', p.name, i.architecture, CASE WHEN i.public THEN 1 ELSE 0 END,
			CASE WHEN i.cached THEN 1 ELSE 0 END, count(*), sum(i.size)
			FROM images i JOIN projects p ON p.id = i.project_id GROUP BY 2, 3, 4, 5
		UNION ALL SELECT 'files', '', '', 0, 0, count(*), COALESCE(sum(size), 0)
			FROM (SELECT hash, max(size) AS size FROM image_files GROUP BY hash) AS f
		UNION ALL SELECT 'warnings', type, '', 0, 0, count(*), 0 FROM warnings WHERE status <> ? GROUP BY type`,
		[]any{WarningResolved}, func(rows *sql.Rows) error {
			var what, name, arch, damage string
			var public, cached bool
			var n, bytes int64
			err := rows.Scan(&what, noted{"name", &name, &damage}, noted{"architecture", &arch, &damage},
				noted{"public", &public, &damage}, noted{"cached", &cached, &damage},
				noted{"count", countColumn[int64]{&n}, &damage}, noted{"size", countColumn[int64]{&bytes}, &damage})
			switch what {
			case "project":
				c.Projects = append(c.Projects, name)
			case "images":
				c.Images = append(c.Images, ImageCount{name, arch, public, cached, n, bytes})
			case "files":
				c.Files, c.Bytes = n, bytes
			case "warnings":
				c.Warnings[name] = n
			}
			return err
		})
	return c, err
}
