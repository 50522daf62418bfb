package api

import "time"

// A Scrub is how the last scrub of a server stands (API extension kiln_scrub).
type Scrub struct {
	Status     string        `json:"status" yaml:"status"`         // never, running, stopped or finished
	StartedAt  time.Time     `json:"started_at" yaml:"started_at"` // zero: never
	EndedAt    time.Time     `json:"ended_at" yaml:"ended_at"`     // or stopped; zero: not yet
	NextAt     time.Time     `json:"next_at" yaml:"next_at"`       // by itself; zero: never
	BytesRead  int64         `json:"bytes_read" yaml:"bytes_read"`
	BytesTotal int64         `json:"bytes_total" yaml:"bytes_total"` // 0: not known
	Files      int           `json:"files" yaml:"files"`             // of images, that were read
	Trees      int           `json:"trees" yaml:"trees"`             // made of images, that were read
	Damage     []ScrubDamage `json:"damage" yaml:"damage"`
	Unlisted   int           `json:"unlisted" yaml:"unlisted"`   // damages besides those
	Operation  string        `json:"operation" yaml:"operation"` // under way; "": none
}

// ScrubDamage is something that a scrub found damaged, or couldn't read.
type ScrubDamage struct {
	Kind     string    `json:"kind" yaml:"kind"`         // file, tree, image (its row) or record
	Name     string    `json:"name" yaml:"name"`         // the hash of a file, else the fingerprint of an image
	About    string    `json:"about" yaml:"about"`       // for people
	Problem  string    `json:"problem" yaml:"problem"`   // for people
	Repaired string    `json:"repaired" yaml:"repaired"` // how; "": it is not
	Unread   bool      `json:"unread" yaml:"unread"`     // it couldn't be read: nobody knows whether it is damaged
	FoundAt  time.Time `json:"found_at" yaml:"found_at"`
}

// ScrubPost begins a scrub.
type ScrubPost struct {
	Anew bool `json:"anew" yaml:"anew"` // don't go on with one that was stopped
}
