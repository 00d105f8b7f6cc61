package nbd

import "crypto/tls"

// tlsConfig is the configuration of the server's side.
func (o *Options) tlsConfig() *tls.Config { return hardened(o.TLS) }

// hardened is a copy with what NBD demands of TLS, and records of full size from the
// start: the small first records help web pages, not block devices.
func hardened(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.DynamicRecordSizingDisabled = true
	return c
}
