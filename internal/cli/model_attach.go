package cli

import (
	"slices"

	"blkd/internal/api"
	"blkd/internal/attach"
)

// VolumeAttachment is who holds a volume.
type VolumeAttachment struct {
	Volume string          `json:"volume"`
	Holder string          `json:"holder"` // empty: nobody
	Number uint64          `json:"number"`
	Shared bool            `json:"shared"`
	Device *AttachedDevice `json:"device"` // null: it has none on this host
}

// AttachedDevice is a volume's device on this host.
type AttachedDevice struct {
	Volume     string `json:"volume"`
	Device     string `json:"device"`
	Holder     string `json:"holder"`
	Attachment uint64 `json:"attachment"` // 0: it only reads
	Primary    string `json:"primary"`
	ReadOnly   bool   `json:"read_only"`
}

func newAttachedDevice(s *attach.State) *AttachedDevice {
	return &AttachedDevice{Volume: s.Volume, Device: s.Device, Holder: s.Holder, Attachment: s.Attachment, Primary: s.Primary, ReadOnly: s.ReadOnly}
}

func newAttachments(volumes []*api.Volume, here []*attach.State) []VolumeAttachment {
	list := []VolumeAttachment{}
	for _, v := range volumes {
		x := VolumeAttachment{Volume: v.Name, Holder: v.Record.GetAttachment().GetHolder(), Number: v.Record.GetAttachment().GetNumber(), Shared: v.Record.GetShared()}
		if i := slices.IndexFunc(here, func(s *attach.State) bool { return s.Volume == v.Name }); i >= 0 {
			x.Device = newAttachedDevice(here[i])
		}
		list = append(list, x)
	}
	return list
}
