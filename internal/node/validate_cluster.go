package node

import (
	"fmt"
	"strings"

	"blkd/internal/cluster"
	"blkd/internal/pki"
	"blkd/internal/suggest"
)

// inCluster tells whether the node shall belong to a cluster.
func (c *Config) inCluster() bool { return len(c.Cluster.Nodes) > 0 }

// validateMode checks that it is clear what the node shall be: one that stands
// alone or one of a cluster.
func (c *Config) validateMode() error {
	switch {
	case c.Standalone && c.inCluster():
		return settingError("standalone", "a node stands alone or belongs to a cluster; take --standalone or --cluster away")
	case c.Standalone:
		return c.validateAlone()
	case c.inCluster():
		return c.validateCluster()
	default:
		return settingError("standalone", "say what this node shall be. One node alone: blkd --standalone --volume demo=1GiB; one of a cluster: blkd --cluster n1=HOST:PORT,n2=…,n3=… --node-name n1")
	}
}

// validateAlone refuses settings that only a cluster has: they would be ignored.
func (c *Config) validateAlone() error {
	set := map[string]bool{
		"cluster.address": c.Cluster.Address != "", "cluster.listen": c.Cluster.Listen != "", "cluster.witness": c.Cluster.Witness,
		"cluster.labels": len(c.Cluster.Labels) > 0, "cluster.tls_dir": c.Cluster.TLSDir != "", "cluster.tls_cert": c.Cluster.TLSCert != "",
		"cluster.tls_key": c.Cluster.TLSKey != "", "cluster.tls_ca": c.Cluster.TLSCA != "", "cluster.insecure": c.Cluster.Insecure,
		"cluster.fencing": c.Cluster.Fencing != "",
	}
	for _, o := range options {
		if set[o.key] {
			return settingError(o.key, "a node that stands alone has no use for it; take it away, or take --standalone away and set --cluster")
		}
	}
	return nil
}

func (c *Config) validateCluster() error {
	list, err := cluster.ParseList(c.Cluster.Nodes)
	if err != nil {
		return settingError("cluster.nodes", "%w", err)
	}
	if err := cluster.CheckNodeName(c.NodeName); err != nil {
		return settingError("node_name", "%w", err)
	}
	if len(c.Volume) > 0 {
		return settingError("volume", "the volumes of a cluster are made with: blkctl volume create")
	}
	if err := checkTCP(c.Cluster.Address); err != nil {
		return settingError("cluster.address", "%w", err)
	}
	if err := checkTCP(c.Cluster.Listen); err != nil {
		return settingError("cluster.listen", "%w", err)
	}
	if c.clusterAddress(list) == "" {
		return settingError("node_name", "%s is not in --cluster%s; use a name of that list, or, for a node that was made known with blkctl node add, set --address", c.NodeName, nearestNode(c.NodeName, list))
	}
	if _, err := c.labels(); err != nil {
		return settingError("cluster.labels", "%w", err)
	}
	return c.validateTrust(list)
}

// nearestNode is a hint at a name of the list that resembles one that is not in it.
func nearestNode(name string, list []cluster.Peer) string {
	var names []string
	for _, p := range list {
		names = append(names, p.Name)
	}
	if best, ok := suggest.Nearest(name, names); ok {
		return "; did you mean " + best + "?"
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// checkTCP accepts HOST:PORT and nothing set.
func checkTCP(address string) error {
	if address == "" {
		return nil
	}
	if strings.HasPrefix(address, "unix:") {
		return fmt.Errorf("%q: nodes speak TCP; write HOST:PORT", address)
	}
	return checkAddress(address)
}

// clusterAddress is where the other nodes reach this one; empty: nothing says so.
func (c *Config) clusterAddress(list []cluster.Peer) string {
	if c.Cluster.Address != "" {
		return c.Cluster.Address
	}
	for _, p := range list {
		if p.Name == c.NodeName {
			return p.Address
		}
	}
	return ""
}

// labels reads the failure domains.
func (c *Config) labels() (map[string]string, error) {
	labels := map[string]string{}
	for _, l := range c.Cluster.Labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" || value == "" {
			return nil, fmt.Errorf("label %q: write KEY=VALUE, for example zone=a", l)
		}
		if _, twice := labels[key]; twice {
			return nil, fmt.Errorf("label %s is given twice", key)
		}
		labels[key] = value
	}
	return labels, nil
}

// validateTrust checks that the cluster's traffic is safe, and the certificates
// that make it so.
func (c *Config) validateTrust(list []cluster.Peer) error {
	files, err := c.Cluster.files()
	switch {
	case err != nil:
		return err
	case files == pki.Files{}:
		addresses := []string{c.clusterAddress(list), c.listenAddress(list)}
		for _, p := range list {
			addresses = append(addresses, p.Address)
		}
		if err := pki.RequireTLS(addresses, c.Cluster.Insecure); err != nil {
			return settingError("cluster.tls_dir", "%w", err)
		}
		return nil
	case c.Cluster.Insecure:
		return settingError("cluster.insecure", "there are certificates, so nothing is spoken in plain text; take it away")
	}
	_, err = c.trust(files)
	return err
}

// listenAddress is where the node listens for other nodes.
func (c *Config) listenAddress(list []cluster.Peer) string {
	if c.Cluster.Listen != "" {
		return c.Cluster.Listen
	}
	return c.clusterAddress(list)
}

// files are the certificate files of the cluster; none without TLS.
func (c *ClusterConfig) files() (pki.Files, error) {
	single := pki.Files{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA}
	switch {
	case c.TLSDir != "" && single != pki.Files{}:
		return pki.Files{}, settingError("cluster.tls_dir", "it names all three files; take --tls-cert, --tls-key and --tls-ca away")
	case c.TLSDir != "":
		files, err := pki.FilesIn(c.TLSDir)
		if err != nil {
			return pki.Files{}, settingError("cluster.tls_dir", "%w", err)
		}
		return files, nil
	case single == pki.Files{}, single.Cert != "" && single.Key != "" && single.CA != "":
		return single, nil
	default:
		return pki.Files{}, settingError("cluster.tls_cert", "--tls-cert, --tls-key and --tls-ca go together; blkctl pki issue node NAME makes all three")
	}
}

// trust loads certificate files and refuses those of somebody else.
func (c *Config) trust(files pki.Files) (*pki.Reloader, error) {
	key := "cluster.tls_cert"
	if c.Cluster.TLSDir != "" {
		key = "cluster.tls_dir"
	}
	certs, err := pki.NewReloader(files)
	if err == nil {
		err = certs.Self().Check(pki.Node, c.NodeName)
	}
	if err != nil {
		return nil, settingError(key, "%w", err)
	}
	return certs, nil
}

// list is the founding list.
func (c *Config) list() []cluster.Peer {
	list, err := cluster.ParseList(c.Cluster.Nodes)
	if err != nil {
		panic("node: the founding list was not validated: " + err.Error())
	}
	return list
}
