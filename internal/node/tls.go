package node

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync/atomic"
)

// certificates holds the TLS material of the NBD server and reads it again when
// told to, so that a renewed certificate needs no restart.
type certificates struct {
	files   NBDConfig
	current atomic.Pointer[tls.Config]
}

func newCertificates(files NBDConfig) (*certificates, error) {
	c := &certificates{files: files}
	return c, c.reload()
}

// reload reads the files; on an error what was loaded before stays in use.
func (c *certificates) reload() error {
	pair, err := tls.LoadX509KeyPair(c.files.TLSCert, c.files.TLSKey)
	if err != nil {
		return settingError("nbd.tls_cert", "%w", err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.files.TLSCA != "" {
		pem, err := os.ReadFile(c.files.TLSCA)
		if err != nil {
			return settingError("nbd.tls_ca", "%w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return settingError("nbd.tls_ca", "%s holds no PEM certificate", c.files.TLSCA)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	c.current.Store(cfg)
	return nil
}

// config is for the server: every handshake uses what was loaded last.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil },
	}
}
