package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// udevWorld makes the directories of a machine that has one NBD device, in the mount
// namespace of its process, and has udev say what it would do with it.
const udevWorld = `
set -e
d=$1 rule=$2 backend=$3
device=$d/sys/devices/virtual/block/nbd7
mkdir -p $device $d/sys/class/block $d/sys/block $d/etc $d/lib $d/run $d/dev
ln -s ../../../../class/block $device/subsystem
ln -s ../../devices/virtual/block/nbd7 $d/sys/class/block/nbd7
ln -s ../devices/virtual/block/nbd7 $d/sys/block/nbd7
printf 'MAJOR=43\nMINOR=224\nDEVNAME=nbd7\nDEVTYPE=disk\n' >$device/uevent
echo 43:224 >$device/dev
echo "$backend" >$device/backend
cp "$rule" $d/etc/
touch $d/dev/null
mount --bind /dev/null $d/dev/null
mount --rbind $d/dev /dev
mount --bind $d/sys /sys
mount --bind $d/etc /etc/udev/rules.d
mount --bind $d/lib /lib/udev/rules.d
mkdir -p /run/udev
mount --bind $d/run /run/udev
export SYSTEMD_DEVICE_VERIFY_SYSFS=0 # it is no real sysfs
exec udevadm test --action=add /sys/devices/virtual/block/nbd7
`

// TestUdevRule has udev apply the rule to a device as attach makes it, and to one that is
// somebody else's.
func TestUdevRule(t *testing.T) {
	for _, program := range []string{"udevadm", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " is not installed")
		}
	}
	if os.Getuid() != 0 {
		t.Skip("it needs root, for a mount namespace")
	}
	rule, err := filepath.Abs(filepath.Join(deploy, "udev", "60-blkd.rules"))
	if err != nil {
		t.Fatal(err)
	}
	for backend, want := range map[string]string{"blkd/17/pgdata": "DEVLINKS=/dev/blkd/by-name/pgdata\n", "nbd-server": ""} {
		out, err := exec.Command("unshare", "--mount", "sh", "-c", udevWorld, "sh", t.TempDir(), rule, backend).CombinedOutput()
		text := string(out)
		if err != nil || !strings.Contains(text, "DEVNAME=/dev/nbd7\n") {
			t.Fatalf("%s: %v\n%s", backend, err, text)
		}
		if !strings.Contains(text, want) || want == "" && strings.Contains(text, "by-name") || regexp.MustCompile(`60-blkd\.rules:\d+ (Invalid|Unknown)`).MatchString(text) {
			t.Errorf("%s: udev says\n%s", backend, text)
		}
	}
}
