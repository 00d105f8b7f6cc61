package node

import (
	"errors"
	"net"
	"slices"

	"blkd/internal/api"
	"blkd/nbd"
)

// newServer makes the NBD server, which has no exports and listens nowhere yet.
func (n *Node) newServer() error {
	o := nbd.Options{Logger: n.log, MaxConnections: n.cfg.NBD.MaxConnections, Find: func(name string) {
		if e := n.clustered.Load(); e != nil {
			e.find(name)
		}
	}}
	if n.cfg.NBD.TLS != "off" {
		certs, err := newCertificates(n.cfg.NBD)
		if err != nil {
			return err
		}
		n.certs = certs
		o.TLS, o.TLSMode = certs.config(), nbd.TLSAllowed
		if n.cfg.NBD.TLS == "required" {
			o.TLSMode = nbd.TLSRequired
		}
	}
	n.nbd = nbd.NewServer(o)
	return nil
}

// serveNBD serves the sockets that were passed in, and those of the
// configuration: all if none were passed in, else only if somebody asked for
// more than the default.
func (n *Node) serveNBD(passed []net.Listener) error {
	n.listeners = passed
	if len(passed) == 0 || !slices.Equal(n.cfg.NBD.Listen, []string{DefaultNBD}) {
		for _, address := range n.cfg.NBD.Listen {
			l, err := listen(address)
			if err != nil {
				return settingError("nbd.listen", "%w", err)
			}
			n.listeners = append(n.listeners, l)
		}
	}
	for _, l := range n.listeners {
		if exposed(l, n.cfg.NBD) {
			n.log.Warn("NBD is served to other machines without client certificates: whoever reaches the address can read and write every volume",
				"address", l.Addr().String(), "advice", "set nbd.tls = required and nbd.tls_ca")
		}
		n.serve("nbd", func() error {
			if err := n.nbd.Serve(l); !errors.Is(err, nbd.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// exposed tells whether other machines can use an address without proof of who
// they are.
func exposed(l net.Listener, c NBDConfig) bool {
	tcp, ok := l.Addr().(*net.TCPAddr)
	return ok && !tcp.IP.IsLoopback() && (c.TLS != "required" || c.TLSCA == "")
}

// export offers a volume to NBD clients, if its store serves.
func (n *Node) export(v *volume) error {
	store, err := v.running()
	if err != nil {
		return err
	}
	// HangUp: a kernel client hands every error to the application at once, while
	// it waits on a closed connection, which can be opened again.
	if err := n.nbd.SetExport(nbd.Export{Name: v.name, Device: store, HangUp: true}); err != nil {
		return err
	}
	if _, err := v.running(); err != nil { // failed before it was exported
		n.withdraw(v)
		return err
	}
	return nil
}

// withdraw takes a volume from NBD clients by closing their connections.
func (n *Node) withdraw(v *volume) { n.nbd.RemoveExport(v.name) }

// connections is the number of NBD connections that use each volume.
func (n *Node) connections() map[string]int {
	uses := map[string]int{}
	if n.nbd == nil {
		return uses // a witness
	}
	for _, e := range n.nbd.Stats().Exports {
		uses[e.Name] = e.Connections
	}
	return uses
}

// describe is everything about one volume.
func (n *Node) describe(v *volume) *api.Volume { return n.describeWith(v, n.connections()) }

// describeAll is everything about every volume.
func (n *Node) describeAll() []*api.Volume {
	uses := n.connections()
	var all []*api.Volume
	for _, v := range n.list() {
		all = append(all, n.describeWith(v, uses))
	}
	return all
}

func (n *Node) describeWith(v *volume, uses map[string]int) *api.Volume {
	out := v.describe(n.cfg.DataDir, n.cfg.Store.OnFull)
	out.Clients = int32(uses[v.name])
	if _, err := v.running(); err == nil {
		for _, l := range n.listeners {
			out.Uris = append(out.Uris, uri(l, v.name, n.cfg.NBD.TLS == "required"))
		}
	}
	return out
}
