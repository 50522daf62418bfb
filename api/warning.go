package api

import "time"

// A Warning says what failed of what the server does unasked, as often as it did.
type Warning struct {
	WarningPut  `yaml:",inline"`
	UUID        string    `json:"uuid" yaml:"uuid"`
	Location    string    `json:"location" yaml:"location"`
	Project     string    `json:"project" yaml:"project"` // of what it is about; "": of none
	Type        string    `json:"type" yaml:"type"`
	Count       int64     `json:"count" yaml:"count"`
	FirstSeenAt time.Time `json:"first_seen_at" yaml:"first_seen_at"`
	LastSeenAt  time.Time `json:"last_seen_at" yaml:"last_seen_at"`
	LastMessage string    `json:"last_message" yaml:"last_message"`
	Severity    string    `json:"severity" yaml:"severity"`     // "low", "moderate" or "high"
	EntityURL   string    `json:"entity_url" yaml:"entity_url"` // what it is about; "": the server
}

// WarningPut is what can be changed of a warning.
type WarningPut struct {
	Status string `json:"status" yaml:"status"` // "new", "acknowledged"; also "resolved" when it is read
}
