package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Reloader holds the certificate that this process presents and the CAs that it
// trusts. It is safe for concurrent use.
type Reloader struct {
	files   Files
	now     func() time.Time
	reload  sync.Mutex // one at a time
	current atomic.Pointer[material]
}

// material is what one reading of the files gave. It does not change.
type material struct {
	pair *tls.Certificate
	self Identity
	cas  *bundle
}

// NewReloader reads the files. It refuses with an [*Error] what peers would
// refuse: a certificate of another CA, one that has ended, a key that does not
// belong to it.
func NewReloader(files Files) (*Reloader, error) { return newReloader(files, time.Now) }

func newReloader(files Files, now func() time.Time) (*Reloader, error) {
	r := &Reloader{files: files, now: now}
	return r, r.Reload()
}

// Reload reads the files again; handshakes that begin afterwards use them. On an
// error, an [*Error], what was read before stays in use. The new certificate must
// be of the same role and name.
func (r *Reloader) Reload() error {
	r.reload.Lock()
	defer r.reload.Unlock()
	m, err := read(r.files, r.now())
	if err != nil {
		return err
	}
	if old := r.current.Load(); old != nil {
		if err := m.self.Check(old.self.Role, old.self.Name); err != nil {
			return fmt.Errorf("%s: %w", r.files.Cert, err)
		}
	}
	r.current.Store(m)
	return nil
}

func read(files Files, now time.Time) (*material, error) {
	cas, err := readBundle(files.CA)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, &Error{Reason: ErrBadFile, Text: fmt.Sprintf("loading %s and %s: %v", files.Cert, files.Key, err),
			Next: "copy there again what blkctl pki issue or rotate wrote, both files"}
	}
	self, err := cas.verify(pair.Leaf, x509.ExtKeyUsageClientAuth, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", files.Cert, err)
	}
	return &material{pair: &pair, self: self, cas: cas}, nil
}

// Self is who this process is.
func (r *Reloader) Self() Identity { return r.current.Load().self }

// Cluster is the name of the cluster.
func (r *Reloader) Cluster() string { return r.current.Load().cas.name().cluster }
