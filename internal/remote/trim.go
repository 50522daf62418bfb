package remote

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bounds on what is kept of image servers: whoever may name one may name many.
const (
	mostDocuments = 1000      // known at a time
	mostParsed    = 32 << 20  // bytes of documents whose contents are kept in memory
	mostStored    = 512 << 20 // bytes of documents in the directory
	halfMadeTime  = time.Hour // no document is on its way for as long
)

// trim lets go of the documents that nobody has asked for for longest, as many as are
// too many. The last one stays.
func (x *Indexes) trim() {
	x.mu.Lock()
	defer x.mu.Unlock()
	urls := make([]string, 0, len(x.entries))
	var bytes int64
	for url, d := range x.entries {
		urls = append(urls, url)
		bytes += d.bytes.Load()
	}
	if bytes <= mostParsed && len(urls) <= mostDocuments {
		return
	}
	slices.SortFunc(urls, func(a, b string) int { return x.entries[a].used.Compare(x.entries[b].used) })
	for _, url := range urls[:len(urls)-1] {
		d := x.entries[url]
		select {
		case d.busy <- struct{}{}:
			bytes -= d.bytes.Load()
			x.letGo(url, d)
		default: // it is being used
		}
		if bytes <= mostParsed && len(x.entries) <= mostDocuments {
			return
		}
	}
}

// sweep removes from the directory what was asked for longest ago, as much as is more
// than some bytes, and what was never finished.
func (x *Indexes) sweep(most int64) {
	x.mu.Lock() // nobody begins to use another one
	defer x.mu.Unlock()
	urls := map[string]string{}
	for url := range x.entries {
		urls[x.path(url)] = url
	}
	entries, err := os.ReadDir(x.Dir)
	if err != nil {
		return
	}
	type stored struct {
		path  string
		bytes int64
		asked time.Time
	}
	var list []stored
	var total int64
	for _, e := range entries {
		fi, err := e.Info()
		path := filepath.Join(x.Dir, e.Name())
		switch {
		case err != nil || !fi.Mode().IsRegular() || strings.HasSuffix(path, ".json"):
		case strings.HasPrefix(e.Name(), halfMade):
			if time.Since(fi.ModTime()) > halfMadeTime {
				_ = os.Remove(path)
			}
		default:
			s := stored{path: path, bytes: fi.Size()}
			if asked, err := os.Stat(path + ".json"); err == nil {
				s.asked = asked.ModTime()
			}
			list, total = append(list, s), total+s.bytes
		}
	}
	slices.SortFunc(list, func(a, b stored) int { return a.asked.Compare(b.asked) })
	for _, s := range list {
		if total <= most {
			return
		}
		if d := x.entries[urls[s.path]]; d != nil {
			select {
			case d.busy <- struct{}{}:
				x.letGo(urls[s.path], d)
			default:
				continue // it is being used
			}
		}
		// What stays because it can't be removed is tried again with the next one.
		_ = os.Remove(s.path + ".json")
		if os.Remove(s.path) == nil {
			total -= s.bytes
		}
	}
}

// letGo forgets a document that the caller has made busy. Who waits for it goes on with
// it as if it was new.
func (x *Indexes) letGo(url string, d *document) {
	d.state, d.loaded, d.parsed = documentState{}, false, nil
	d.bytes.Store(0)
	delete(x.entries, url)
	<-d.busy
}
