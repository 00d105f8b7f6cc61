package statefile

import (
	"os"
	"strings"
)

// The variables of a volume that this machine holds, as hooks, units and the steps of
// services find them in their environment.
const (
	Volume     = "BLKD_VOLUME"
	Holder     = "BLKD_HOLDER"
	Attachment = "BLKD_ATTACHMENT" // the number since which the holder has the volume
	Device     = "BLKD_DEVICE"     // where it is, as a block device
	URI        = "BLKD_URI"        // likewise, for NBD clients, without a device
)

// SaveEnv writes variables, each as NAME=VALUE, so that systemd and shells can read them.
func SaveEnv(file string, env []string) error {
	text := ""
	for _, x := range env {
		name, value, _ := strings.Cut(x, "=")
		text += name + "='" + value + "'\n"
	}
	return Replace(file, []byte(text))
}

// LoadEnv reads what SaveEnv has written; fs.ErrNotExist: there is none.
func LoadEnv(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return strings.Fields(strings.ReplaceAll(string(b), "'", "")), nil
}

// Variable is the value of one of the variables; empty: it is not set.
func Variable(env []string, name string) string {
	for _, x := range env {
		if value, ok := strings.CutPrefix(x, name+"="); ok {
			return value
		}
	}
	return ""
}
