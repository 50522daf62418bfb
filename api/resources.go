package api

// Resources is what a server is made of, as its kernel tells.
type Resources struct {
	CPU     ResourcesCPU     `json:"cpu" yaml:"cpu"`
	Memory  ResourcesMemory  `json:"memory" yaml:"memory"`
	GPU     ResourcesGPU     `json:"gpu" yaml:"gpu"`
	Network ResourcesNetwork `json:"network" yaml:"network"`
	Storage ResourcesStorage `json:"storage" yaml:"storage"`
	System  ResourcesSystem  `json:"system" yaml:"system"`
}

// ResourcesCPU are the processors.
type ResourcesCPU struct {
	Architecture string               `json:"architecture" yaml:"architecture"`
	Sockets      []ResourcesCPUSocket `json:"sockets" yaml:"sockets"`
	Total        uint64               `json:"total" yaml:"total"` // of threads
}

// ResourcesCPUSocket is one package of processors. Frequencies are in MHz; 0: not known.
type ResourcesCPUSocket struct {
	Name             string              `json:"name,omitempty" yaml:"name,omitempty"`
	Vendor           string              `json:"vendor,omitempty" yaml:"vendor,omitempty"`
	Socket           uint64              `json:"socket" yaml:"socket"`
	Cache            []ResourcesCPUCache `json:"cache,omitempty" yaml:"cache,omitempty"`
	Cores            []ResourcesCPUCore  `json:"cores" yaml:"cores"`
	Frequency        uint64              `json:"frequency,omitempty" yaml:"frequency,omitempty"`
	FrequencyMinimum uint64              `json:"frequency_minimum,omitempty" yaml:"frequency_minimum,omitempty"`
	FrequencyTurbo   uint64              `json:"frequency_turbo,omitempty" yaml:"frequency_turbo,omitempty"`
}

// ResourcesCPUCache is a cache; the size is in bytes.
type ResourcesCPUCache struct {
	Level uint64 `json:"level" yaml:"level"`
	Type  string `json:"type" yaml:"type"`
	Size  uint64 `json:"size" yaml:"size"`
}

// ResourcesCPUCore is a core.
type ResourcesCPUCore struct {
	Core      uint64               `json:"core" yaml:"core"`
	Die       uint64               `json:"die" yaml:"die"`
	Threads   []ResourcesCPUThread `json:"threads" yaml:"threads"`
	Frequency uint64               `json:"frequency,omitempty" yaml:"frequency,omitempty"`
}

// ResourcesCPUThread is what limits.cpu counts.
type ResourcesCPUThread struct {
	ID       int64  `json:"id" yaml:"id"`
	NUMANode uint64 `json:"numa_node" yaml:"numa_node"`
	Thread   uint64 `json:"thread" yaml:"thread"`
	Online   bool   `json:"online" yaml:"online"`
	Isolated bool   `json:"isolated" yaml:"isolated"`
}

// ResourcesMemory is memory in bytes.
type ResourcesMemory struct {
	Nodes          []ResourcesMemoryNode `json:"nodes" yaml:"nodes"`
	HugepagesTotal uint64                `json:"hugepages_total" yaml:"hugepages_total"`
	HugepagesUsed  uint64                `json:"hugepages_used" yaml:"hugepages_used"`
	HugepagesSize  uint64                `json:"hugepages_size" yaml:"hugepages_size"`
	Used           uint64                `json:"used" yaml:"used"`
	Total          uint64                `json:"total" yaml:"total"`
}

// ResourcesMemoryNode is the memory of a NUMA node, in bytes.
type ResourcesMemoryNode struct {
	NUMANode       uint64 `json:"numa_node" yaml:"numa_node"`
	HugepagesUsed  uint64 `json:"hugepages_used" yaml:"hugepages_used"`
	HugepagesTotal uint64 `json:"hugepages_total" yaml:"hugepages_total"`
	Used           uint64 `json:"used" yaml:"used"`
	Total          uint64 `json:"total" yaml:"total"`
}

// ResourcesDevice is what is known of every device. Names of vendors are not looked up.
type ResourcesDevice struct {
	Driver     string `json:"driver,omitempty" yaml:"driver,omitempty"`
	NUMANode   uint64 `json:"numa_node" yaml:"numa_node"`
	PCIAddress string `json:"pci_address,omitempty" yaml:"pci_address,omitempty"`
	VendorID   string `json:"vendor_id,omitempty" yaml:"vendor_id,omitempty"`
	ProductID  string `json:"product_id,omitempty" yaml:"product_id,omitempty"`
}

// ResourcesGPU are the graphics cards.
type ResourcesGPU struct {
	Cards []ResourcesGPUCard `json:"cards" yaml:"cards"`
	Total uint64             `json:"total" yaml:"total"`
}

// ResourcesGPUCard is one of them.
type ResourcesGPUCard struct {
	ResourcesDevice `yaml:",inline"`
	DRM             *ResourcesDRM `json:"drm,omitempty" yaml:"drm,omitempty"`
}

// ResourcesDRM is a card below /dev/dri.
type ResourcesDRM struct {
	ID         uint64 `json:"id" yaml:"id"`
	CardName   string `json:"card_name" yaml:"card_name"`
	CardDevice string `json:"card_device" yaml:"card_device"` // "226:0"
}

// ResourcesNetwork are the network cards.
type ResourcesNetwork struct {
	Cards []ResourcesNetworkCard `json:"cards" yaml:"cards"`
	Total uint64                 `json:"total" yaml:"total"`
}

// ResourcesNetworkCard is one of them.
type ResourcesNetworkCard struct {
	ResourcesDevice `yaml:",inline"`
	Ports           []ResourcesNetworkPort `json:"ports,omitempty" yaml:"ports,omitempty"`
}

// ResourcesNetworkPort is an interface; the speed is in Mbit/s.
type ResourcesNetworkPort struct {
	ID           string `json:"id" yaml:"id"`
	Address      string `json:"address,omitempty" yaml:"address,omitempty"`
	Port         uint64 `json:"port" yaml:"port"`
	Protocol     string `json:"protocol" yaml:"protocol"`
	LinkDetected bool   `json:"link_detected" yaml:"link_detected"`
	LinkSpeed    uint64 `json:"link_speed,omitempty" yaml:"link_speed,omitempty"`
	LinkDuplex   string `json:"link_duplex,omitempty" yaml:"link_duplex,omitempty"`
}

// ResourcesStorage are the disks.
type ResourcesStorage struct {
	Disks []ResourcesDisk `json:"disks" yaml:"disks"`
	Total uint64          `json:"total" yaml:"total"`
}

// ResourcesDisk is a disk; sizes are in bytes.
type ResourcesDisk struct {
	ID         string               `json:"id" yaml:"id"`
	Device     string               `json:"device" yaml:"device"` // "253:0"
	Model      string               `json:"model,omitempty" yaml:"model,omitempty"`
	Type       string               `json:"type,omitempty" yaml:"type,omitempty"`
	ReadOnly   bool                 `json:"read_only" yaml:"read_only"`
	Size       uint64               `json:"size" yaml:"size"`
	Removable  bool                 `json:"removable" yaml:"removable"`
	WWN        string               `json:"wwn,omitempty" yaml:"wwn,omitempty"`
	NUMANode   uint64               `json:"numa_node" yaml:"numa_node"`
	BlockSize  uint64               `json:"block_size" yaml:"block_size"`
	RPM        uint64               `json:"rpm" yaml:"rpm"`
	Serial     string               `json:"serial,omitempty" yaml:"serial,omitempty"`
	PCIAddress string               `json:"pci_address,omitempty" yaml:"pci_address,omitempty"`
	Partitions []ResourcesPartition `json:"partitions" yaml:"partitions"`
}

// ResourcesPartition is a part of a disk.
type ResourcesPartition struct {
	ID        string `json:"id" yaml:"id"`
	Device    string `json:"device" yaml:"device"`
	ReadOnly  bool   `json:"read_only" yaml:"read_only"`
	Size      uint64 `json:"size" yaml:"size"`
	Partition uint64 `json:"partition" yaml:"partition"`
}

// ResourcesSystem is what the firmware says of the machine.
type ResourcesSystem struct {
	UUID    string `json:"uuid" yaml:"uuid"`
	Vendor  string `json:"vendor" yaml:"vendor"`
	Product string `json:"product" yaml:"product"`
	Family  string `json:"family" yaml:"family"`
	Version string `json:"version" yaml:"version"`
	SKU     string `json:"sku" yaml:"sku"`
	Serial  string `json:"serial" yaml:"serial"`
	Type    string `json:"type" yaml:"type"` // physical or virtual-machine
}
