package node

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/units"
)

// settingError says which setting is wrong by all three of its names, so that
// it is found wherever it was set.
func settingError(key, format string, args ...any) error {
	i := slices.IndexFunc(options, func(o option) bool { return o.key == key })
	o := options[i]
	return fmt.Errorf("%s (--%s, %s): %w", key, o.flag(), o.env(), fmt.Errorf(format, args...))
}

// validate checks everything that can be checked without touching the data
// directory or the network.
func (c *Config) validate() error {
	if err := c.validateMode(); err != nil {
		return err
	}
	if c.NodeName == "" {
		return settingError("node_name", "a node needs a name")
	}
	if c.DataDir == "" {
		return settingError("data_dir", "a node needs a directory for its data")
	}
	if path := c.socketPath(); len(path) > api.MaxSocketPath {
		return settingError("socket", "%s is %d bytes long, a Unix socket's path may have %d; choose a shorter one", path, len(path), api.MaxSocketPath)
	}
	if _, err := c.volumes(); err != nil {
		return settingError("volume", "%w", err)
	}
	return errors.Join(c.NBD.validate(), c.Store.validate(), c.validateMetrics(), c.Log.validate())
}

func oneOf(key, value string, words ...string) error {
	if slices.Contains(words, value) {
		return nil
	}
	return settingError(key, "%q is none of %s", value, strings.Join(words, ", "))
}

func (n *NBDConfig) validate() error {
	for _, a := range n.Listen {
		if err := checkAddress(a); err != nil {
			return settingError("nbd.listen", "%w", err)
		}
	}
	if err := oneOf("nbd.tls", n.TLS, "off", "allowed", "required"); err != nil {
		return err
	}
	if n.MaxConnections < 1 {
		return settingError("nbd.max_connections", "%d leaves no client any room", n.MaxConnections)
	}
	files := n.TLSCert != "" || n.TLSKey != "" || n.TLSCA != ""
	switch {
	case n.TLS == "off" && files:
		return settingError("nbd.tls", "certificate files are set but TLS is off; choose allowed or required")
	case n.TLS == "off":
		return nil
	case n.TLSCert == "":
		return settingError("nbd.tls_cert", "TLS needs a certificate")
	case n.TLSKey == "":
		return settingError("nbd.tls_key", "TLS needs the certificate's key")
	}
	_, err := newCertificates(*n)
	return err
}

// checkAddress accepts HOST:PORT and unix:PATH.
func checkAddress(a string) error {
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		switch {
		case !filepath.IsAbs(path):
			return fmt.Errorf("%q: write unix: and an absolute path", a)
		case len(path) > api.MaxSocketPath:
			return fmt.Errorf("%q: a Unix socket's path may have %d bytes", a, api.MaxSocketPath)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(a)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%q is no address: %w; write HOST:PORT or unix:/PATH", a, err)
	}
	return nil
}

func (s *StoreConfig) validate() error {
	if err := oneOf("store.on_full", s.OnFull, "wait", "fail"); err != nil {
		return err
	}
	if n, err := optionalSize(s.LogSize); err != nil {
		return settingError("store.log_size", "%w", err)
	} else if n != 0 && (n < blockdev.MinLog || n > blockdev.MaxLog || n%blockdev.BlockSize != 0) {
		return settingError("store.log_size", "%s is not a multiple of %s from %s to %s", units.Exact(n),
			units.Exact(blockdev.BlockSize), units.Exact(blockdev.MinLog), units.Exact(blockdev.MaxLog))
	}
	if _, err := optionalSize(s.Cache); err != nil {
		return settingError("store.cache", "%w", err)
	}
	return nil
}

// optionalSize reads a size; empty is 0, which means the store's default.
func optionalSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	return units.ParseSize(s)
}

func (c *Config) validateMetrics() error {
	if c.Metrics.Listen == "" {
		if c.Metrics.Pprof {
			return settingError("metrics.pprof", "there is no metrics address to serve it on; set metrics.listen")
		}
		return nil
	}
	if strings.HasPrefix(c.Metrics.Listen, "unix:") {
		return settingError("metrics.listen", "%q: metrics are served over TCP; write HOST:PORT", c.Metrics.Listen)
	}
	if err := checkAddress(c.Metrics.Listen); err != nil {
		return settingError("metrics.listen", "%w", err)
	}
	return nil
}

func (l *LogConfig) validate() error {
	return errors.Join(
		oneOf("log.level", l.Level, "debug", "info", "warn", "error"),
		oneOf("log.format", l.Format, "text", "json"))
}

// sector is what a volume's size is a multiple of, in bytes.
const sector = 512

// checkVolumeSize refuses sizes that a store cannot have.
func checkVolumeSize(n int64) error {
	switch {
	case n < blockdev.MinVolume || n > blockdev.MaxVolume:
		return fmt.Errorf("size %s is not between %s and %s", units.Exact(n), units.Exact(blockdev.MinVolume), units.Exact(blockdev.MaxVolume))
	case n%sector != 0:
		return fmt.Errorf("size %s is not a multiple of %d bytes; the next one is %s", units.Exact(n), sector, units.Exact((n/sector+1)*sector))
	}
	return nil
}
