package instance

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
)

// The ids that containers get where subuid(5) gives root none: far from those
// of users, and as many as LXD takes.
const (
	defaultFirstID = 1_000_000
	defaultIDs     = 1_000_000_000
)

// fewestIDs is what a Linux system needs: up to nobody, 65534, and a little for
// systemd's dynamic users.
const fewestIDs = 65536

// hostIDs says which ids of the host are the containers' ids from 0 on: root's
// range in /etc/subuid, which must be in /etc/subgid as well, or a default.
func hostIDs(subuid, subgid string) ([]box.IDMap, error) {
	uids, err := rootRange(subuid)
	if err != nil {
		return nil, err
	}
	gids, err := rootRange(subgid)
	if err != nil {
		return nil, err
	}
	if uids == nil && gids == nil {
		return []box.IDMap{{Container: 0, Host: defaultFirstID, Size: defaultIDs}}, nil
	}
	if uids == nil || gids == nil || *uids != *gids {
		return nil, kiln.Errorf(kiln.Invalid, "%s and %s give root different ranges of ids; give both the same line, such "+
			"as root:%d:%d", subuid, subgid, defaultFirstID, defaultIDs)
	}
	return []box.IDMap{*uids}, nil
}

// rootRange gives the first range that subuid(5) has for root, by name or by
// number, nil when there is none. A file that is absent gives none.
func rootRange(path string) (*box.IDMap, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != "root" && fields[0] != "0" {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 != nil || err2 != nil || first+count >= 1<<32-2 {
			return nil, kiln.Errorf(kiln.Invalid, "%s: %q is not a range of ids", path, lines.Text())
		}
		if count < fewestIDs {
			return nil, kiln.Errorf(kiln.Invalid, "%s: %q gives fewer than the %d ids that a system container needs", path,
				lines.Text(), fewestIDs)
		}
		return &box.IDMap{Container: 0, Host: uint32(first), Size: uint32(count)}, nil
	}
	return nil, lines.Err()
}
