package api

// A Network is one that instances can be connected to: a bridge that the server manages,
// or an interface of its host.
type Network struct {
	NetworkPut `yaml:",inline"`
	Name       string   `json:"name" yaml:"name"`
	Type       string   `json:"type" yaml:"type"` // "bridge", "physical", …
	Managed    bool     `json:"managed" yaml:"managed"`
	Status     string   `json:"status" yaml:"status"`
	UsedBy     []string `json:"used_by" yaml:"used_by"`
	Locations  []string `json:"locations" yaml:"locations"`
}

// NetworkPut is what can be changed of a network.
type NetworkPut struct {
	Config      map[string]string `json:"config" yaml:"config"`
	Description string            `json:"description" yaml:"description"`
}

// NetworksPost makes a network.
type NetworksPost struct {
	NetworkPut
	Name string `json:"name"`
	Type string `json:"type"` // "bridge", or "" for the same
}

// NetworkLease is an address of an instance.
type NetworkLease struct {
	Hostname string `json:"hostname" yaml:"hostname"`
	Hwaddr   string `json:"hwaddr" yaml:"hwaddr"`
	Address  string `json:"address" yaml:"address"`
	Type     string `json:"type" yaml:"type"` // "dynamic" when the server chose it
	Location string `json:"location" yaml:"location"`
}

// NetworkState is how the interface of a network is at the moment.
type NetworkState struct {
	Addresses []InstanceStateNetworkAddress `json:"addresses" yaml:"addresses"`
	Counters  InstanceStateNetworkCounters  `json:"counters" yaml:"counters"`
	Hwaddr    string                        `json:"hwaddr" yaml:"hwaddr"`
	Mtu       int                           `json:"mtu" yaml:"mtu"`
	State     string                        `json:"state" yaml:"state"` // "up" or "down"
	Type      string                        `json:"type" yaml:"type"`
}
