package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Lifetimes of what is made without another wish.
const (
	CALifetime          = 3650 * 24 * time.Hour
	CertificateLifetime = 365 * 24 * time.Hour
)

// skew is how far certificates begin before they are made, for clocks that are
// behind.
const skew = 5 * time.Minute

// Authority is a directory with the CA of a cluster and what it has issued:
//
//	ca.crt        the CA; while it is changed, the new and the old one
//	ca.key        the private keys of them, mode 0600
//	NAME/         what the holder needs, and nothing else: NAME.crt, NAME.key, ca.crt
//
// The keys below NAME may be deleted once they were copied; the certificates are
// the record of what was issued. An open Authority locks the directory against
// other processes. It is not safe for concurrent use.
type Authority struct {
	dir  string
	now  func() time.Time
	lock *os.File
	cas  *bundle
}

// Init makes the directory, if need be, and a CA in it. It refuses, with
// ErrExists, a directory that holds one.
func Init(dir, cluster string, lifetime time.Duration) (*Authority, error) {
	if !nameRule.MatchString(cluster) {
		return nil, invalid("%q cannot be the name of a cluster: %s", cluster, nameHelp)
	}
	if err := checkLifetime(lifetime); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a, err := lockAuthority(dir)
	if err != nil {
		return nil, err
	}
	if err := a.init(cluster, lifetime); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *Authority) init(cluster string, lifetime time.Duration) error {
	for _, name := range []string{a.path(caCert), a.path(caKey)} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return &Error{Reason: ErrExists, Text: name + " is there already, and nothing was changed",
				Next: "blkctl pki list; or blkctl pki rotate --ca for a new CA; or another --dir"}
		}
	}
	cert, key, err := a.newCA(cluster, lifetime)
	if err != nil {
		return err
	}
	return a.replaceCAs([]*x509.Certificate{cert}, []crypto.Signer{key})
}

// Open opens the directory of a CA and waits for other processes that use it.
func Open(dir string) (*Authority, error) {
	if _, err := os.Stat(filepath.Join(dir, caCert)); errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Reason: ErrNotFound, Text: "there is no CA in " + dir, Next: "blkctl pki init; or name its directory with --dir"}
	}
	a, err := lockAuthority(dir)
	if err != nil {
		return nil, err
	}
	if a.cas, err = readBundle(a.path(caCert)); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func lockAuthority(dir string) (*Authority, error) {
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), lock.Close())
	}
	return &Authority{dir: dir, now: time.Now, lock: lock}, nil
}

// Close unlocks the directory.
func (a *Authority) Close() error { return a.lock.Close() }

// Dir is the directory.
func (a *Authority) Dir() string { return a.dir }

// Cluster is the name of the cluster.
func (a *Authority) Cluster() string { return a.cas.name().cluster }

func (a *Authority) path(elements ...string) string {
	return filepath.Join(append([]string{a.dir}, elements...)...)
}

// newCA makes a CA. Its certificates are signed by it directly.
func (a *Authority) newCA(cluster string, lifetime time.Duration) (*x509.Certificate, crypto.Signer, error) {
	id := make([]byte, 8)
	rand.Read(id)
	name := caName{cluster: cluster, id: hex.EncodeToString(id)}
	template := a.template(lifetime)
	template.Subject = name.subject()
	template.BasicConstraintsValid, template.IsCA, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return sign(template, nil, nil)
}

// template is what all certificates have in common.
func (a *Authority) template(lifetime time.Duration) *x509.Certificate {
	serial := make([]byte, 8)
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always as long
	now := a.now().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(lifetime),
	}
}

// sign makes a new key and a certificate for it, signed by the CA, or by itself
// if there is none. P-256 is what Go, OpenSSL and GnuTLS all take, in TLS 1.2 too.
func sign(template, ca *x509.Certificate, caKey crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	if ca == nil {
		ca, caKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// replaceCAs writes the CAs, newest first, and their keys. A key without its
// certificate does no harm, so keys come before certificates and go after them.
func (a *Authority) replaceCAs(certs []*x509.Certificate, keys []crypto.Signer) error {
	old, err := readKeys(a.path(caKey))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := a.writeKeys(append(keys, old...)); err != nil {
		return err
	}
	b := &bundle{certs: certs, pool: x509.NewCertPool()}
	for _, c := range certs {
		b.pool.AddCert(c)
	}
	if err := writeFile(a.path(caCert), 0o644, b.pem()); err != nil {
		return err
	}
	a.cas = b
	return a.writeKeys(keys)
}

func (a *Authority) writeKeys(keys []crypto.Signer) error {
	var text []byte
	for _, k := range keys {
		one, err := keyPEM(k)
		if err != nil {
			return err
		}
		text = append(text, one...)
	}
	return writeFile(a.path(caKey), 0o600, text)
}

// caKeyOf finds the private key of a CA.
func (a *Authority) caKeyOf(ca *x509.Certificate) (crypto.Signer, error) {
	keys, err := readKeys(a.path(caKey))
	if err != nil {
		return nil, &Error{Reason: ErrBadFile, Text: fmt.Sprintf("reading the CA's key: %v", err), Next: "bring " + caKey + " back from where it is kept"}
	}
	for _, k := range keys {
		if belongTo(ca, k) {
			return k, nil
		}
	}
	return nil, &Error{Reason: ErrBadFile, Text: fmt.Sprintf("%s does not hold the key of %s", a.path(caKey), holderOf(ca)),
		Next: "bring " + caKey + " back from where it is kept"}
}

// certPEM is a certificate as a file holds it.
func certPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: cert.Raw})
}
