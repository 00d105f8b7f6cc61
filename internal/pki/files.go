package pki

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Names of files and PEM blocks.
const (
	caCert    = "ca.crt"
	caKey     = "ca.key"
	certEnd   = ".crt"
	keyEnd    = ".key"
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY" // PKCS #8
)

// Files are the PEM files of one process.
type Files struct {
	Cert string // its certificate
	Key  string // the private key of that
	CA   string // the CAs to trust
}

// FilesIn finds the files in a directory as "blkctl pki issue" fills it: ca.crt
// and one other pair, NAME.crt and NAME.key.
func FilesIn(dir string) (Files, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*"+certEnd))
	if err != nil {
		return Files{}, &Error{Reason: ErrInvalid, Text: fmt.Sprintf("directory %s: %v", dir, err)}
	}
	var certs []string
	for _, f := range found {
		if filepath.Base(f) != caCert {
			certs = append(certs, f)
		}
	}
	if len(certs) != 1 {
		return Files{}, &Error{Reason: ErrBadFile, Text: fmt.Sprintf("%s holds %d certificates besides %s instead of one", dir, len(certs), caCert),
			Next: "copy there what blkctl pki issue wrote"}
	}
	return Files{Cert: certs[0], Key: strings.TrimSuffix(certs[0], certEnd) + keyEnd, CA: filepath.Join(dir, caCert)}, nil
}

// writeFile replaces a file at once and durably: whoever reads it, also after a
// crash, gets the old or the new content.
func writeFile(name string, mode os.FileMode, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %s: %w", name, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maxFile bounds what is read of a file that should be a few kilobytes.
const maxFile = 1 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// readCertificate reads the first certificate of a PEM file.
func readCertificate(name string) (*x509.Certificate, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != certBlock {
		return nil, fmt.Errorf("%s holds no PEM certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return cert, nil
}

// readKeys reads every private key of a PEM file.
func readKeys(name string) ([]crypto.Signer, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var keys []crypto.Signer
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%s holds a key that cannot sign", name)
		}
		keys = append(keys, signer)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no PEM private key", name)
	}
	return keys, nil
}

// keyPEM is a private key as a file holds it.
func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// belongTo tells whether the key is that of the certificate.
func belongTo(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key.Public())
}
