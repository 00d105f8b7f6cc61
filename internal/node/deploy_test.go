package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

const deploy = "../../deploy"

func TestExampleConfig(t *testing.T) {
	inv, err := Load([]string{"--check-config", "--config", filepath.Join(deploy, "blkd.toml")}, nil)
	if err != nil || !inv.Check {
		t.Fatal(err)
	}
}

// TestExampleConfigIsComplete uncomments every setting of the example: all keys
// must be there, and those that are not marked as examples have their defaults.
func TestExampleConfigIsComplete(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(deploy, "blkd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	setting := regexp.MustCompile(`(?m)^#([a-z_]+ = )`)
	all := setting.ReplaceAllString(string(text), "$1")
	var tree map[string]any
	if err := toml.Unmarshal([]byte(all), &tree); err != nil {
		t.Fatal(err)
	}
	got := flatKeys(tree, "")
	want := optionKeys()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the example has %v\nthe options are %v", got, want)
	}

	var examples []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") && strings.Contains(line, "# e.g.") {
			examples = append(examples, line)
		}
	}
	defaults := string(text)
	for _, line := range examples {
		defaults = strings.Replace(defaults, line, "", 1)
	}
	defaults = setting.ReplaceAllString(defaults, "$1")
	cfg, bare := DefaultConfig(), DefaultConfig()
	if err := readFile(writeConfig(t, defaults), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := readFile(writeConfig(t, string(text)), &bare); err != nil {
		t.Fatal(err)
	}
	bare.Store.Cache = "128MiB" // what an empty one means
	if strings.Join(cfg.Volume, ",") != strings.Join(bare.Volume, ",") || cfg.NBD.TLS != bare.NBD.TLS ||
		cfg.NBD.MaxConnections != bare.NBD.MaxConnections || cfg.Store != bare.Store || cfg.Metrics != bare.Metrics || cfg.Log != bare.Log {
		t.Errorf("commented settings are not the defaults:\n%+v\n%+v", cfg, bare)
	}
}

func flatKeys(tree map[string]any, prefix string) []string {
	var keys []string
	for k, v := range tree {
		if sub, ok := v.(map[string]any); ok {
			keys = append(keys, flatKeys(sub, prefix+k+".")...)
		} else {
			keys = append(keys, prefix+k)
		}
	}
	return keys
}

// TestUnits has systemd check the units, with programs and manual pages replaced by
// what exists here.
func TestUnits(t *testing.T) {
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for source, name := range map[string]string{"blkd.service": "blkd.service", "blkd-attach@.service": "blkd-attach@pg.service", "blkd-service@.service": "blkd-service@pg.service"} {
		unit, err := os.ReadFile(filepath.Join(deploy, "systemd", source))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("/usr/sbin/blkd", "/bin/true", "/usr/bin/blkctl", "/bin/true", "man:blkctl(1)", "file:///").Replace(string(unit))
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(verify, "verify", file).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, out)
		}
	}
}
