package node

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "blkd.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPrecedence(t *testing.T) {
	file := writeConfig(t, `
standalone = true
node_name = "from-file"
data_dir = "/from/file"
volume = ["a=1GiB", "b=2GiB"]
[log]
level = "error"
format = "json"
`)
	inv, err := Load(
		[]string{"--config", file, "--data-dir", "/from/flag", "--volume=c=3MiB", "--volume=d=4MiB"},
		[]string{"BLKD_DATA_DIR=/from/env", "BLKD_LOG_LEVEL=warn", "BLKD_VOLUME=e=1MiB", "BLKD_NBD=127.0.0.1:1,unix:/s", "OTHER=1"})
	if err != nil {
		t.Fatal(err)
	}
	c := inv.Config
	for _, tc := range []struct{ what, got, want string }{
		{"flag over env and file", c.DataDir, "/from/flag"},
		{"flag list replaces", strings.Join(c.Volume, " "), "c=3MiB d=4MiB"},
		{"env over file", c.Log.Level, "warn"},
		{"env list", strings.Join(c.NBD.Listen, " "), "127.0.0.1:1 unix:/s"},
		{"file over default", c.Log.Format, "json"},
		{"file", c.NodeName, "from-file"},
		{"default", c.NBD.TLS, "off"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %q, want %q", tc.what, tc.got, tc.want)
		}
	}
}

func TestConfigFromEnvironment(t *testing.T) {
	file := writeConfig(t, "standalone = true\nnode_name = \"x\"\n")
	inv, err := Load(nil, []string{"BLKD_CONFIG=" + file})
	if err != nil || inv.Config.NodeName != "x" {
		t.Fatalf("%+v, %v", inv.Config, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		args []string
		env  []string
		say  []string
	}{
		"unknown key":      {file: "standalone = true\n[nbd]\ntsl = \"off\"\n", say: []string{"blkd.toml:3", "nbd.tsl", "did you mean nbd.tls?"}},
		"unknown section":  {file: "[networking]\na = 1\n", say: []string{"blkd.toml:1", "networking"}},
		"wrong type":       {file: "standalone = \"yes\"\n", say: []string{"blkd.toml:1", "standalone"}},
		"not TOML":         {file: "standalone = true\n= 3\n", say: []string{"blkd.toml:2"}},
		"no file":          {args: []string{"--config", "/nowhere/x.toml"}, say: []string{"/nowhere/x.toml", "no such file"}},
		"unknown flag":     {args: []string{"--volum", "a=1G"}, say: []string{"--volum", "did you mean --volume?"}},
		"argument":         {args: []string{"demo"}, say: []string{"unexpected argument", "demo"}},
		"unknown variable": {env: []string{"BLKD_VOLUMES=a=1G"}, say: []string{"BLKD_VOLUMES", "did you mean BLKD_VOLUME?"}},
		"far variable":     {env: []string{"BLKD_WHATEVER=1"}, say: []string{"BLKD_WHATEVER", "unset it"}},
		"bad variable":     {env: []string{"BLKD_STANDALONE=maybe"}, say: []string{"BLKD_STANDALONE", "maybe"}},
		"cluster":          {say: []string{"standalone", "--standalone --volume demo=1GiB"}},
		"no size":          {args: []string{"--standalone", "--volume", "demo"}, say: []string{"--volume", "BLKD_VOLUME", "demo=1GiB"}},
		"bad size":         {args: []string{"--standalone", "--volume", "demo=1GB"}, say: []string{"demo", "1GiB"}},
		"odd size":         {args: []string{"--standalone", "--volume", "demo=5000"}, say: []string{"demo", "multiple of 512", "5KiB"}},
		"tiny size":        {args: []string{"--standalone", "--volume", "demo=512"}, say: []string{"demo", "between 4KiB and 64TiB"}},
		"bad name":         {args: []string{"--standalone", "--volume", "../x=1G"}, say: []string{"../x", "a-z"}},
		"twice":            {args: []string{"--standalone", "--volume", "a=1G,a=2G"}, say: []string{"a is given twice"}},
		"address":          {args: []string{"--standalone", "--nbd", "10809"}, say: []string{"nbd.listen (--nbd, BLKD_NBD)", "10809", "HOST:PORT"}},
		"relative socket":  {args: []string{"--standalone", "--nbd", "unix:x"}, say: []string{"absolute"}},
		"long socket":      {args: []string{"--standalone", "--data-dir", "/" + strings.Repeat("x", 120)}, say: []string{"107", "--socket"}},
		"TLS mode":         {args: []string{"--standalone", "--nbd-tls", "on"}, say: []string{"off, allowed, required"}},
		"TLS files":        {args: []string{"--standalone", "--nbd-tls-cert", "x"}, say: []string{"TLS is off"}},
		"TLS no cert":      {args: []string{"--standalone", "--nbd-tls", "required"}, say: []string{"--nbd-tls-cert", "certificate"}},
		"TLS missing cert": {args: []string{"--standalone", "--nbd-tls", "required", "--nbd-tls-cert", "/nowhere/c", "--nbd-tls-key", "/nowhere/k"}, say: []string{"/nowhere/c"}},
		"connections":      {args: []string{"--standalone", "--nbd-max-connections", "0"}, say: []string{"--nbd-max-connections"}},
		"on full":          {args: []string{"--standalone", "--store-on-full", "panic"}, say: []string{"wait, fail"}},
		"log size":         {args: []string{"--standalone", "--store-log-size", "1KiB"}, say: []string{"--store-log-size", "256KiB"}},
		"cache":            {args: []string{"--standalone", "--store-cache", "lots"}, say: []string{"--store-cache", "lots"}},
		"pprof alone":      {args: []string{"--standalone", "--pprof"}, say: []string{"metrics.listen"}},
		"metrics on unix":  {args: []string{"--standalone", "--metrics", "unix:/x"}, say: []string{"TCP"}},
		"log level":        {args: []string{"--standalone", "--log-level", "loud"}, say: []string{"debug, info, warn, error"}},
		"log format":       {args: []string{"--standalone", "--log-format", "xml"}, say: []string{"text, json"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := tc.args
			if tc.file != "" {
				args = append([]string{"--config", writeConfig(t, tc.file)}, args...)
			}
			_, err := Load(args, tc.env)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, say := range tc.say {
				if !strings.Contains(err.Error(), say) {
					t.Errorf("error does not say %q:\n%v", say, err)
				}
			}
		})
	}
}

func TestHelpAndVersionNeedNoConfig(t *testing.T) {
	for _, arg := range []string{"--help", "-h", "--version"} {
		if inv, err := Load([]string{arg}, []string{"BLKD_CONFIG=/nowhere"}); err != nil || !inv.Help && !inv.Version {
			t.Errorf("%s: %+v, %v", arg, inv, err)
		}
	}
}

// structKeys lists the keys of a configuration struct: "nbd.tls".
func structKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, structKeys(f.Type, key+".")...)
		} else {
			keys = append(keys, key)
		}
	}
	return keys
}

func optionKeys() []string {
	var keys []string
	for _, o := range options {
		keys = append(keys, o.key)
	}
	return keys
}

func TestEveryFieldIsAnOption(t *testing.T) {
	fields, opts := structKeys(reflect.TypeFor[Config](), ""), optionKeys()
	slices.Sort(fields)
	slices.Sort(opts)
	if !slices.Equal(fields, opts) {
		t.Errorf("fields  %v\noptions %v", fields, opts)
	}
}

// TestThreeWaysAgree sets each option by flag, by environment and by file, and
// wants the same configuration.
func TestThreeWaysAgree(t *testing.T) {
	for _, o := range options {
		fs, _ := flagSet(&Config{})
		value, inFile := "x", `"x"`
		switch fs.Lookup(o.flag()).Value.Type() {
		case "bool":
			value, inFile = "true", "true"
		case "int":
			value, inFile = "7", "7"
		case "stringSlice":
			value, inFile = "x,y", `["x", "y"]`
		}
		text := o.key + " = " + inFile + "\n"

		var byFlag, byFile Config
		flags, _ := flagSet(&byFlag)
		if err := flags.Parse([]string{"--" + o.flag() + "=" + value}); err != nil {
			t.Fatal(err)
		}
		if err := readFile(writeConfig(t, text), &byFile); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(byFlag, byFile) {
			t.Errorf("%s: flag gives %+v, file gives %+v", o.key, byFlag, byFile)
		}
		if reflect.DeepEqual(byFlag, Config{}) {
			t.Errorf("%s: flag --%s changed nothing", o.key, o.flag())
		}
		env, err := environment([]string{o.env() + "=" + value})
		if err != nil || env[o.env()] != value {
			t.Errorf("%s: environment gives %v, %v", o.key, env, err)
		}
	}
}

func TestUsageNamesEverySetting(t *testing.T) {
	usage := Usage()
	for _, o := range options {
		if !strings.Contains(usage, "--"+o.flag()+" ") && !strings.Contains(usage, "--"+o.flag()+"[") || !strings.Contains(usage, o.key) {
			t.Errorf("--help lacks --%s or %s", o.flag(), o.key)
		}
	}
}

func FuzzReadFile(f *testing.F) {
	f.Add("standalone = true\n[nbd]\nlisten = [\"127.0.0.1:1\"]\n")
	f.Add("[log]\nlevl = 1\n")
	f.Add("a.b.c = [[[{}]]]")
	f.Add("volume = [\"=\"]")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		name := filepath.Join(dir, "blkd.toml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := DefaultConfig()
		if readFile(name, &cfg) == nil {
			_ = cfg.validate() // it may refuse, it must not panic
		}
	})
}
