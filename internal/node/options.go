package node

import (
	"strings"

	"github.com/spf13/pflag"
)

// option is one setting: a key in the file, a flag and an environment variable.
type option struct {
	key   string // "nbd.tls_cert"
	short string // flag name, if it is not the key with dashes
	usage string // shown by --help; the word in back quotes names the value
	bind  func(*Config, *pflag.FlagSet, option)
}

// flag is the option's flag name: "nbd-tls-cert".
func (o option) flag() string {
	if o.short != "" {
		return o.short
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(o.key)
}

// env is the option's environment variable: "BLKD_NBD_TLS_CERT".
func (o option) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(o.flag(), "-", "_"))
}

const envPrefix = "BLKD_"

// options is every setting, in the order of --help.
var options = []option{
	{key: "standalone", usage: "run as one node, without a cluster", bind: boolean(func(c *Config) *bool { return &c.Standalone })},
	{key: "node_name", usage: "`NAME` of this node", bind: text(func(c *Config) *string { return &c.NodeName })},
	{key: "data_dir", usage: "`DIR` that holds lock, control socket and volumes", bind: text(func(c *Config) *string { return &c.DataDir })},
	{key: "socket", usage: "`PATH` of the control socket (default DATA-DIR/blkd.sock)", bind: text(func(c *Config) *string { return &c.Socket })},
	{key: "volume", usage: "volume `NAME=SIZE` to open, and to create if absent; repeatable", bind: list(func(c *Config) *[]string { return &c.Volume })},

	{key: "cluster.nodes", short: "cluster", usage: "`NAME=HOST:PORT` of the nodes that found the cluster, in the same order on all; repeatable", bind: list(func(c *Config) *[]string { return &c.Cluster.Nodes })},
	{key: "cluster.address", short: "address", usage: "`HOST:PORT` where the other nodes reach this one (default as in --cluster)", bind: text(func(c *Config) *string { return &c.Cluster.Address })},
	{key: "cluster.listen", short: "listen", usage: "`HOST:PORT` to listen on for the other nodes and blkctl (default the address)", bind: text(func(c *Config) *string { return &c.Cluster.Listen })},
	{key: "cluster.witness", short: "witness", usage: "vote in the cluster and hold no data", bind: boolean(func(c *Config) *bool { return &c.Cluster.Witness })},
	{key: "cluster.labels", short: "label", usage: "failure domain `KEY=VALUE` of this node, for example rack=r1; repeatable", bind: list(func(c *Config) *[]string { return &c.Cluster.Labels })},
	{key: "cluster.tls_dir", short: "tls-dir", usage: "`DIR` with this node's files as blkctl pki issue writes them", bind: text(func(c *Config) *string { return &c.Cluster.TLSDir })},
	{key: "cluster.tls_cert", short: "tls-cert", usage: "instead: `FILE` with this node's certificate, PEM", bind: text(func(c *Config) *string { return &c.Cluster.TLSCert })},
	{key: "cluster.tls_key", short: "tls-key", usage: "`FILE` with the certificate's private key, PEM", bind: text(func(c *Config) *string { return &c.Cluster.TLSKey })},
	{key: "cluster.tls_ca", short: "tls-ca", usage: "`FILE` with the CA of the cluster, PEM", bind: text(func(c *Config) *string { return &c.Cluster.TLSCA })},
	{key: "cluster.fencing", short: "fencing", usage: "`FILE` that says how machines are switched off through fence agents", bind: text(func(c *Config) *string { return &c.Cluster.Fencing })},
	{key: "cluster.insecure", short: "insecure", usage: "speak plain text with other machines: whoever reaches the network controls the cluster", bind: boolean(func(c *Config) *bool { return &c.Cluster.Insecure })},

	{key: "nbd.listen", short: "nbd", usage: "`ADDRESS` for NBD clients: HOST:PORT or unix:PATH; repeatable", bind: list(func(c *Config) *[]string { return &c.NBD.Listen })},
	{key: "nbd.tls", usage: "TLS for NBD clients: `MODE` off, allowed or required", bind: text(func(c *Config) *string { return &c.NBD.TLS })},
	{key: "nbd.tls_cert", usage: "`FILE` with this node's certificate chain, PEM", bind: text(func(c *Config) *string { return &c.NBD.TLSCert })},
	{key: "nbd.tls_key", usage: "`FILE` with the certificate's private key, PEM", bind: text(func(c *Config) *string { return &c.NBD.TLSKey })},
	{key: "nbd.tls_ca", usage: "`FILE` with the CA that client certificates must be signed by, PEM", bind: text(func(c *Config) *string { return &c.NBD.TLSCA })},
	{key: "nbd.max_connections", usage: "`NUMBER` of NBD connections served at once", bind: integer(func(c *Config) *int { return &c.NBD.MaxConnections })},

	{key: "store.on_full", usage: "what writes do when the disk is full: `ACTION` wait or fail", bind: text(func(c *Config) *string { return &c.Store.OnFull })},
	{key: "store.log_size", usage: "log `SIZE` of new volumes (default 1/4 of the volume, 64MiB to 1GiB)", bind: text(func(c *Config) *string { return &c.Store.LogSize })},
	{key: "store.cache", usage: "metadata cache `SIZE` per volume (default 128MiB)", bind: text(func(c *Config) *string { return &c.Store.Cache })},
	{key: "store.no_checksums", usage: "neither record nor verify checksums; for benchmarks only", bind: boolean(func(c *Config) *bool { return &c.Store.NoChecksums })},

	{key: "metrics.listen", short: "metrics", usage: "HTTP `ADDRESS` for /metrics and /health (default none)", bind: text(func(c *Config) *string { return &c.Metrics.Listen })},
	{key: "metrics.pprof", short: "pprof", usage: "serve /debug/pprof/ on the metrics address", bind: boolean(func(c *Config) *bool { return &c.Metrics.Pprof })},
	{key: "log.level", usage: "least `LEVEL` logged: debug, info, warn or error", bind: text(func(c *Config) *string { return &c.Log.Level })},
	{key: "log.format", usage: "log `FORMAT`: text or json", bind: text(func(c *Config) *string { return &c.Log.Format })},
}

func boolean(field func(*Config) *bool) func(*Config, *pflag.FlagSet, option) {
	return func(c *Config, fs *pflag.FlagSet, o option) { fs.BoolVar(field(c), o.flag(), *field(c), o.usage) }
}

func integer(field func(*Config) *int) func(*Config, *pflag.FlagSet, option) {
	return func(c *Config, fs *pflag.FlagSet, o option) { fs.IntVar(field(c), o.flag(), *field(c), o.usage) }
}

func text(field func(*Config) *string) func(*Config, *pflag.FlagSet, option) {
	return func(c *Config, fs *pflag.FlagSet, o option) { fs.StringVar(field(c), o.flag(), *field(c), o.usage) }
}

func list(field func(*Config) *[]string) func(*Config, *pflag.FlagSet, option) {
	return func(c *Config, fs *pflag.FlagSet, o option) {
		fs.StringSliceVar(field(c), o.flag(), *field(c), o.usage)
	}
}
