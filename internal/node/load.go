package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"blkd/internal/suggest"
)

// Invocation is what a command line asks for.
type Invocation struct {
	Config  Config
	Check   bool // --check-config: check and leave
	Version bool // --version: print and leave
	Help    bool // --help: print and leave
}

// Load works out the configuration: a flag counts more than an environment
// variable, that more than the file, that more than the default. It validates
// the result. The error says which setting is wrong and what to write.
func Load(args, environ []string) (Invocation, error) {
	var given Config
	first, inv := flagSet(&given)
	if err := first.Parse(args); err != nil {
		return inv.value(), suggest.Flag(first, err)
	}
	if first.NArg() > 0 {
		return inv.value(), fmt.Errorf("unexpected argument %q; blkd takes only flags", first.Arg(0))
	}
	if inv.help || inv.version {
		return inv.value(), nil
	}
	env, err := environment(environ)
	if err != nil {
		return inv.value(), err
	}
	file := inv.file
	if !first.Changed("config") {
		file = env[envPrefix+"CONFIG"]
	}

	cfg := DefaultConfig()
	if file != "" {
		if err := readFile(file, &cfg); err != nil {
			return inv.value(), err
		}
	}
	final, again := flagSet(&cfg)
	for _, o := range options {
		value, ok := env[o.env()]
		if !ok || first.Changed(o.flag()) {
			continue
		}
		if err := final.Set(o.flag(), value); err != nil {
			return inv.value(), fmt.Errorf("environment variable %s=%q: %w", o.env(), value, err)
		}
	}
	if err := final.Parse(args); err != nil {
		return inv.value(), suggest.Flag(final, err)
	}
	result := again.value()
	result.Config = cfg
	return result, cfg.validate()
}

// asks are the flags that are not settings.
type asks struct {
	file                 string
	check, version, help bool
}

func (a *asks) value() Invocation {
	return Invocation{Check: a.check, Version: a.version, Help: a.help}
}

func flagSet(c *Config) (*pflag.FlagSet, *asks) {
	a := &asks{}
	fs := pflag.NewFlagSet("blkd", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {}
	c.bind(fs)
	fs.StringVar(&a.file, "config", "", "TOML `FILE` with settings")
	fs.BoolVar(&a.check, "check-config", false, "check the configuration and leave")
	fs.BoolVar(&a.version, "version", false, "print the version and leave")
	fs.BoolVarP(&a.help, "help", "h", false, "print this help and leave")
	return fs, a
}

// environment picks blkd's variables and refuses those it does not know, which
// are most likely misspelt.
func environment(environ []string) (map[string]string, error) {
	names := []string{envPrefix + "CONFIG"}
	for _, o := range options {
		names = append(names, o.env())
	}
	env := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix) {
			env[name] = value
		}
	}
	known := map[string]bool{}
	for _, n := range names {
		known[n] = true
	}
	for name := range env {
		if known[name] {
			continue
		}
		if best, ok := suggest.Nearest(name, names); ok {
			return nil, fmt.Errorf("environment variable %s is unknown; did you mean %s?", name, best)
		}
		return nil, fmt.Errorf("environment variable %s is unknown; unset it", name)
	}
	return env, nil
}

// readFile lays the settings of a TOML file over c.
func readFile(name string, c *Config) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err = d.Decode(c)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		first := unknown.Errors[0]
		row, _ := first.Position()
		key := strings.Join(first.Key(), ".")
		return fmt.Errorf("%s:%d: unknown key %s%s\n%s", name, row, key, didYouMean(key), first.String())
	case errors.As(err, &wrong):
		row, _ := wrong.Position()
		return fmt.Errorf("%s:%d: %w\n%s", name, row, err, wrong.String())
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func didYouMean(key string) string {
	var keys []string
	for _, o := range options {
		keys = append(keys, o.key)
	}
	if best, ok := suggest.Nearest(key, keys); ok {
		return "; did you mean " + best + "?"
	}
	return ""
}
