package api

// A HostFinding is what was found of one thing that instances need of a server's host.
type HostFinding struct {
	Check  string `json:"check" yaml:"check"`
	State  string `json:"state" yaml:"state"` // ok, weak: with a restriction, or broken
	Detail string `json:"detail" yaml:"detail"`
	Cure   string `json:"cure" yaml:"cure"` // what to do; "": nothing
}
