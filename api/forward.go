package api

// A NetworkForward leads what is sent to an address of the server's host to instances.
type NetworkForward struct {
	NetworkForwardPut `yaml:",inline"`
	ListenAddress     string `json:"listen_address" yaml:"listen_address"`
	Location          string `json:"location" yaml:"location"`
}

// NetworkForwardPut is what can be changed of a forward.
type NetworkForwardPut struct {
	Description string               `json:"description" yaml:"description"`
	Config      map[string]string    `json:"config" yaml:"config"` // target_address: where everything else goes
	Ports       []NetworkForwardPort `json:"ports" yaml:"ports"`
}

// A NetworkForwardPort leads some ports to an instance.
type NetworkForwardPort struct {
	Description   string `json:"description" yaml:"description"`
	Protocol      string `json:"protocol" yaml:"protocol"`       // "tcp" or "udp"
	ListenPort    string `json:"listen_port" yaml:"listen_port"` // ports and ranges: "80,8000-8010"
	TargetPort    string `json:"target_port" yaml:"target_port"` // as many, or one; "": the same
	TargetAddress string `json:"target_address" yaml:"target_address"`
}

// NetworkForwardsPost makes a forward.
type NetworkForwardsPost struct {
	NetworkForwardPut
	ListenAddress string `json:"listen_address"`
}

// A NetworkFinding is what one look at the way of an instance's packets showed.
type NetworkFinding struct {
	Device string `json:"device" yaml:"device"` // the interface that was looked at; "": the instance
	Check  string `json:"check" yaml:"check"`
	Broken bool   `json:"broken" yaml:"broken"`
	Detail string `json:"detail" yaml:"detail"`
	Cure   string `json:"cure" yaml:"cure"` // "": nothing is wrong
}
