package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pg.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file)
}

func TestConfig(t *testing.T) {
	c, err := load(t, `
volume = "pg"
[[step]]
ocf = "heartbeat:Filesystem"
params = { device = "/dev/blkd/by-name/pg", directory = "/srv/pg", fstype = "ext4" }
stop_timeout = "2m"
[[step]]
unit = "postgresql@15-main.service"
[[step]]
start = "ip address add 10.0.0.9/24 dev eth0"
stop = "ip address del 10.0.0.9/24 dev eth0"
`)
	if err != nil {
		t.Fatal(err)
	}
	if !*c.Device || time.Duration(c.Takeover) != 4*time.Minute+30*time.Second || time.Duration(c.Steps[0].StartTimeout) != time.Minute {
		t.Errorf("%+v", c)
	}
	if c.Steps[0].Name != "heartbeat:Filesystem" || c.Steps[1].Name != "postgresql@15-main.service" || c.Steps[2].Name != "ip" {
		t.Errorf("%+v", c.Steps)
	}
}

func TestConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "name the volume",
		`volume = "pg"`:               "nothing to start",
		"volume = \"pg\"\n[[step]]\n": "step 1: it needs one of",
		"volume = \"pg\"\n[[step]]\nunit=\"a\"\nocf=\"b:c\"\n":                  "step 1: it needs one of",
		"volume = \"pg\"\n[[step]]\nstart=\"a\"\n":                              "both start and stop",
		"volume = \"pg\"\n[[step]]\nocf=\"../x\"\n":                             "PROVIDER:AGENT",
		"volume = \"pg\"\n[[step]]\nunit=\"a\"\nparams={x=\"y\"}\n":             "params are for OCF agents",
		"volume = \"pg\"\n[[step]]\nunit=\"a\"\nstatus=\"true\"\n":              "status is for commands",
		"volume = \"pg\"\n[[step]]\nunit=\"a\"\n[[step]]\nunit=\"a\"\n":         "give them names",
		"volume = \"pg\"\n[[step]]\nunit=\"a\"\nstop_timeout=\"0s\"\n":          "no time to wait",
		"volume = \"pg\"\n[[step]]\nunit=\"a\"\nstop_timout=\"1s\"\n":           "stop_timout",
		"volume = \"pg\"\n[[step]]\nunit=\"a\"\nstop_timeout=\"soon\"\n":        "soon",
		"volume = \"pg\"\ndevice = false\nrelay = true\n[[step]]\nunit=\"a\"\n": "without a device",
		"volume = \"pg\"\nnbd_tls_certificates = \"d\"\n[[step]]\nunit=\"a\"\n": "relay = true",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
