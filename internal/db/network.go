package db

import (
	"context"
	"database/sql"
	"net/netip"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Network is a row of networks.
type Network struct {
	Name, Description string
	Config            map[string]string
	Bridge            string             // the interface of this host; "" until it was needed first
	Forwards          map[string]Forward // by the address that is listened at
	Damage            string             // what of the row can't be read; "": nothing
}

// A Forward is what is led to instances of what is sent to one address.
type Forward struct {
	Description string            `json:"description,omitempty"`
	Config      map[string]string `json:"config,omitempty"`
	Ports       []ForwardPort     `json:"ports,omitempty"`
}

// A ForwardPort leads ports to one instance.
type ForwardPort struct {
	Description string `json:"description,omitempty"`
	Protocol    string `json:"protocol"`
	Listen      string `json:"listen"` // a list of ports
	Address     string `json:"address"`
	Target      string `json:"target,omitempty"` // a list of ports; "": the same
}

const networkColumns = `name, description, config, bridge, forwards`

func (n *Network) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(noted{"name", &n.Name, &n.Damage},
		noted{"description", &n.Description, &n.Damage},
		noted{"config", jsonColumn{&n.Config}, &n.Damage},
		noted{"bridge", &n.Bridge, &n.Damage},
		noted{"forwards", jsonColumn{&n.Forwards}, &n.Damage})
}

// A Lease is a row of network_leases: the addresses of an instance's interface.
type Lease struct {
	Project               string // of the instance
	Instance, Device, MAC string
	IPv4, IPv6            netip.Addr // not valid: none
}

// Networks gives every network, by name.
func (d *DB) Networks(ctx context.Context) ([]Network, error) {
	var list []Network
	err := each(ctx, d.read, `SELECT `+networkColumns+` FROM networks ORDER BY name`, nil, func(rows *sql.Rows) error {
		var n Network
		err := n.scan(rows)
		list = append(list, n)
		return err
	})
	return list, err
}

// Network gives one network. The error is NotFound.
func (d *DB) Network(ctx context.Context, name string) (Network, error) {
	return getNetwork(ctx, d.read, name)
}

func getNetwork(ctx context.Context, q queryer, name string) (Network, error) {
	var n Network
	err := n.scan(q.QueryRowContext(ctx, `SELECT `+networkColumns+` FROM networks WHERE name = ?`, name))
	return n, found(err, "Network", name)
}

// CreateNetwork adds a row. The error is Conflict when the name is taken.
func (d *DB) CreateNetwork(ctx context.Context, n Network) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Networks = true
		_, err := tx.tx.ExecContext(ctx, `INSERT INTO networks (`+networkColumns+`) VALUES (?, ?, ?, ?, ?)`,
			n.Name, n.Description, toJSON(orEmpty(n.Config)), n.Bridge, toJSON(orEmpty(n.Forwards)))
		return conflict(err, "Network", n.Name)
	})
}

// EditNetwork reads a row, lets f change all but its name, and writes it back, in one
// transaction. Errors: NotFound, Integrity when the row is damaged, those of f.
func (d *DB) EditNetwork(ctx context.Context, name string, f func(*Network) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Networks = true
		n, err := getNetwork(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		if n.Damage != "" { // what can't be read would be overwritten
			return kiln.Errorf(kiln.Integrity, "network %q can't be changed: %s; delete it, or bring a copy of the database "+
				"back: kiln admin restore-database", name, n.Damage)
		}
		if err := f(&n); err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `UPDATE networks SET description = ?, config = ?, bridge = ?, forwards = ? WHERE name = ?`,
			n.Description, toJSON(orEmpty(n.Config)), n.Bridge, toJSON(orEmpty(n.Forwards)), name)
		return err
	})
}

// RenameNetwork changes a name. Errors: NotFound, Conflict.
func (d *DB) RenameNetwork(ctx context.Context, from, to string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Networks = true
		r, err := tx.tx.ExecContext(ctx, `UPDATE networks SET name = ? WHERE name = ?`, to, from)
		if err != nil {
			return conflict(err, "Network", to)
		}
		return changed(r, err, "Network", from)
	})
}

// DeleteNetwork removes a row and its leases. The error is NotFound.
func (d *DB) DeleteNetwork(ctx context.Context, name string) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		tx.changes.Networks = true
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM networks WHERE name = ?`, name)
		return changed(r, err, "Network", name)
	})
}

// Leases gives the addresses on a network, by instance.
func (d *DB) Leases(ctx context.Context, network string) ([]Lease, error) {
	return leases(ctx, d.read, network)
}

func leases(ctx context.Context, q queryer, network string) ([]Lease, error) {
	var list []Lease
	err := each(ctx, q, `SELECT p.name, i.name, l.device, l.mac, l.address, l.address6 FROM network_leases l
		JOIN networks n ON n.id = l.network_id JOIN instances i ON i.id = l.instance_id
		JOIN projects p ON p.id = i.project_id WHERE n.name = ? ORDER BY i.name, p.id, l.device`, []any{network}, func(rows *sql.Rows) error {
		var l Lease
		err := rows.Scan(&l.Project, &l.Instance, &l.Device, &l.MAC, addrColumn{&l.IPv4}, addrColumn{&l.IPv6})
		list = append(list, l)
		return err
	})
	return list, err
}

// SetLease gives an interface of an instance of ctx's project the addresses that choose makes of all
// leases of the network and its former ones, in one transaction. Errors: NotFound,
// Conflict when the IPv4 address is another's, those of choose.
func (d *DB) SetLease(ctx context.Context, network string, l Lease, choose func(all []Lease, l *Lease) error) (Lease,
	error) {
	err := d.Tx(ctx, func(tx *Tx) error {
		in, err := projectID(ctx, tx.tx, project.Instances)
		if err != nil {
			return err
		}
		l.Project = project.Name(ctx)
		all, err := leases(ctx, tx.tx, network)
		if err != nil {
			return err
		}
		var others []Lease
		for _, o := range all {
			if o.Project == l.Project && o.Instance == l.Instance && o.Device == l.Device {
				l.IPv4, l.IPv6 = o.IPv4, o.IPv6
			} else {
				others = append(others, o)
			}
		}
		if err := choose(others, &l); err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `DELETE FROM network_leases WHERE device = ? AND
			instance_id = (SELECT id FROM instances WHERE project_id = ? AND name = ?)`, l.Device, in, l.Instance)
		if err != nil {
			return err
		}
		r, err := tx.tx.ExecContext(ctx, `INSERT INTO network_leases (instance_id, device, network_id, mac, address, address6)
			SELECT i.id, ?, n.id, ?, ?, ? FROM instances i, networks n
			WHERE i.project_id = ? AND i.name = ? AND n.name = ?`, l.Device, l.MAC, addrText(l.IPv4), addrText(l.IPv6), in,
			l.Instance, network)
		return changed(r, err, "Network", network)
	})
	return l, err
}

// KeepLeases removes the leases of an instance of other devices than these. It says
// whether there were any.
func (d *DB) KeepLeases(ctx context.Context, instance string, devices map[string]bool) (removed bool, err error) {
	var drop []string
	in, err := projectID(ctx, d.read, project.Instances)
	if err != nil {
		return false, err
	}
	err = each(ctx, d.read, `SELECT l.device FROM network_leases l JOIN instances i ON i.id = l.instance_id
		WHERE i.project_id = ? AND i.name = ?`, []any{in, instance}, func(rows *sql.Rows) error {
		var device string
		err := rows.Scan(&device)
		if !devices[device] {
			drop = append(drop, device)
		}
		return err
	})
	if err != nil || len(drop) == 0 {
		return false, err
	}
	return true, d.Tx(ctx, func(tx *Tx) error {
		for _, device := range drop {
			if _, err := tx.tx.ExecContext(ctx, `DELETE FROM network_leases WHERE device = ? AND
				instance_id = (SELECT id FROM instances WHERE project_id = ? AND name = ?)`, device, in, instance); err != nil {
				return err
			}
		}
		return nil
	})
}

// addrColumn stores an address as text, "" when there is none. One that can't be read
// is none: it is chosen anew.
type addrColumn struct{ a *netip.Addr }

// Scan is database/sql's.
func (c addrColumn) Scan(src any) error {
	*c.a = netip.Addr{}
	if s, ok := src.(string); ok && s != "" {
		*c.a, _ = netip.ParseAddr(s)
	}
	return nil
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
