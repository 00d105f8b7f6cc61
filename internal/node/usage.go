package node

import (
	"fmt"
	"strings"
)

const usageHead = `blkd serves replicated block devices over NBD.

Usage:
  blkd --standalone --volume NAME=SIZE [flags]
  blkd --cluster NAME=HOST:PORT,… --node-name NAME [flags]

Examples:
  blkd --standalone --volume demo=1GiB
  nbdinfo nbd://127.0.0.1:10809/demo

  blkd --cluster n1=10.0.0.1:7400,n2=10.0.0.2:7400,n3=10.0.0.3:7400 --node-name n1 --tls-dir /etc/blkd/pki
  blkctl status

`

const usageTail = `
Every setting is also an environment variable (--nbd-tls is BLKD_NBD_TLS; lists
are separated by commas) and a key in the TOML file given with --config or
BLKD_CONFIG (nbd.tls is the key tls in section [nbd]). A flag counts more than
the environment, that more than the file.

SIGTERM and SIGINT stop blkd after the requests it has; a second one at once.
SIGHUP reads the TLS certificates again.

Exit codes: 0 stopped as told, 1 failed, 2 usage or configuration.
`

// Usage is what blkd --help prints.
func Usage() string {
	cfg := DefaultConfig()
	fs, _ := flagSet(&cfg)
	var b strings.Builder
	b.WriteString(usageHead)
	b.WriteString("Flags:\n")
	b.WriteString(fs.FlagUsagesWrapped(100))
	b.WriteString(usageTail)
	b.WriteString("\nKeys, in the order of the flags:\n ")
	for i, o := range options {
		if i > 0 && i%4 == 0 {
			b.WriteString("\n ")
		}
		fmt.Fprintf(&b, " %-20s", o.key)
	}
	b.WriteString("\n")
	return b.String()
}
