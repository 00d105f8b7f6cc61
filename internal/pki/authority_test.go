package pki

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "pki")
	a, err := Init(dir, "prod", CALifetime)
	must(t, err)
	if a.Cluster() != "prod" || a.Dir() != dir || a.Changing() {
		t.Errorf("cluster %q in %q", a.Cluster(), a.Dir())
	}
	ca := a.CAs()[0]
	if left := ca.DaysLeft(time.Now()); left != 3650 {
		t.Errorf("%d days left", left)
	}
	if d := time.Since(ca.NotBefore); d < skew || d > skew+time.Minute {
		t.Errorf("it began %v ago", d)
	}
	must(t, a.Close())
	before, err := os.ReadFile(filepath.Join(dir, caKey))
	must(t, err)
	_, err = Init(dir, "prod", CALifetime)
	refusal(t, "again", err, ErrExists, caCert+" is there already", "nothing was changed")
	must(t, os.Remove(filepath.Join(dir, caCert)))
	_, err = Init(dir, "prod", CALifetime)
	refusal(t, "with a key", err, ErrExists, caKey+" is there already")
	after, err := os.ReadFile(filepath.Join(dir, caKey))
	must(t, err)
	if string(before) != string(after) {
		t.Error("the key was overwritten")
	}
	_, err = Open(dir)
	refusal(t, "open", err, ErrNotFound, "there is no CA in "+dir, "blkctl pki init")
}

func TestModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	a := cluster(t, "prod")
	issue(t, a, Node, "n1")
	for range 2 {
		for name, want := range map[string]fs.FileMode{
			".": 0o700, caCert: 0o644, caKey: 0o600, "n1": 0o700, "n1/n1.crt": 0o644, "n1/n1.key": 0o600, "n1/ca.crt": 0o644,
		} {
			info, err := os.Stat(a.path(name))
			must(t, err)
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s has mode %04o, want %04o", name, got, want)
			}
		}
		must(t, a.AddCA(CALifetime))
		_, err := a.Rotate("n1", nil, CertificateLifetime)
		must(t, err)
	}
	left, err := filepath.Glob(a.path("*", ".*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestIssue(t *testing.T) {
	a := cluster(t, "prod")
	c, err := a.Issue(Request{Role: Node, Name: "n1", Hosts: []string{"storage1.example", "192.0.2.10", "2001:db8::1", "localhost"}, Lifetime: 30 * day})
	must(t, err)
	if c.Identity != (Identity{Node, "n1", a.cas.name().id}) || !slices.Equal(c.Hosts, []string{"storage1.example", "192.0.2.10", "2001:db8::1"}) || c.DaysLeft(time.Now()) != 30 {
		t.Errorf("%+v", c)
	}
	cert, err := readCertificate(a.certFile("n1"))
	must(t, err)
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "storage1.example", "192.0.2.10", "2001:db8::1"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if d := time.Since(cert.NotBefore); d < skew || d > skew+time.Minute {
		t.Errorf("it began %v ago", d)
	}
	_, err = a.Issue(Request{Role: Admin, Name: "n1", Lifetime: day})
	refusal(t, "again", err, ErrExists, "n1 was issued before", "blkctl pki rotate n1")
	for _, r := range []Request{
		{Role: Node, Name: "", Lifetime: day}, {Role: Node, Name: "../n1", Lifetime: day}, {Role: Node, Name: "a/b", Lifetime: day},
		{Role: Node, Name: "ca.key", Lifetime: day}, {Role: Node, Name: strings.Repeat("n", 64), Lifetime: day},
		{Role: Node, Name: "n2"}, {Role: Node, Name: "n2", Lifetime: -day}, {Role: Node, Name: "n2", Lifetime: 36501 * day},
		{Role: Node, Name: "n2", Lifetime: day, Hosts: []string{"host:7400"}}, {Role: Node, Name: "n2", Lifetime: day, Hosts: []string{"*.example"}},
		{Role: Node, Name: "n2", Lifetime: day, Hosts: []string{""}}, {Role: Client, Name: "n2", Lifetime: day, Hosts: []string{"db1"}},
	} {
		_, err := a.Issue(r)
		refusal(t, r.Name, err, ErrInvalid)
	}
	if list, err := a.List(); err != nil || len(list) != 1 {
		t.Errorf("what was refused left something: %v, %v", list, err)
	}
}

func TestNothingOutlivesItsCA(t *testing.T) {
	a, err := Init(t.TempDir(), "prod", 100*day)
	must(t, err)
	defer a.Close()
	c, err := a.Issue(Request{Role: Node, Name: "n1", Lifetime: CertificateLifetime})
	must(t, err)
	if !c.NotAfter.Equal(a.CAs()[0].NotAfter) {
		t.Errorf("ends on %v", c.NotAfter)
	}
	from(a, 101*day)
	_, err = a.Issue(Request{Role: Node, Name: "n2", Lifetime: day})
	refusal(t, "after its end", err, ErrExpired, "CA prod/", "blkctl pki rotate --ca")

	// The way out: a new CA signs, though the old one is still there.
	must(t, a.AddCA(CALifetime))
	_, err = a.Issue(Request{Role: Node, Name: "n2", Lifetime: day})
	must(t, err)
	must(t, a.DropCA()) // n1 ended with the old CA, so nobody needs it
}

func TestRotate(t *testing.T) {
	a := cluster(t, "prod")
	first, err := a.Issue(Request{Role: Node, Name: "n1", Hosts: []string{"192.0.2.10"}, Lifetime: day})
	must(t, err)
	key, err := os.ReadFile(a.keyFile("n1"))
	must(t, err)
	second, err := a.Rotate("n1", nil, CertificateLifetime)
	must(t, err)
	newKey, err := os.ReadFile(a.keyFile("n1"))
	must(t, err)
	if second.Serial == first.Serial || second.Identity != first.Identity || !slices.Equal(second.Hosts, first.Hosts) || second.DaysLeft(time.Now()) != 365 || string(key) == string(newKey) {
		t.Errorf("%+v became %+v", first, second)
	}
	third, err := a.Rotate("n1", []string{"storage1"}, day)
	must(t, err)
	if !slices.Equal(third.Hosts, []string{"storage1"}) {
		t.Errorf("%+v", third)
	}
	issue(t, a, Admin, "alice")
	_, err = a.Rotate("alice", []string{"storage1"}, day)
	refusal(t, "hosts of an admin", err, ErrInvalid)
	_, err = a.Rotate("n9", nil, day)
	refusal(t, "unknown", err, ErrNotFound, "n9", "blkctl pki list")
	_, err = a.Rotate("../n1", nil, day)
	refusal(t, "path", err, ErrInvalid)

	must(t, os.WriteFile(a.certFile("n1"), []byte("garbage"), 0o600))
	_, err = a.Rotate("n1", nil, day)
	refusal(t, "garbage", err, ErrBadFile, "no PEM certificate")
	must(t, os.Remove(a.path(caKey)))
	_, err = a.Rotate("alice", nil, day)
	refusal(t, "no key of the CA", err, ErrBadFile, "bring ca.key back")
	refusal(t, "no key of the CA", a.AddCA(CALifetime), ErrBadFile, "bring ca.key back")
}

func TestListFindsProblems(t *testing.T) {
	a := cluster(t, "prod")
	for _, name := range []string{"good", "keyless", "mixed", "open", "stale", "garbage", "moved"} {
		issue(t, a, Node, name)
	}
	for name, end := range map[string]time.Duration{"ended": -9 * day, "ending": 9 * day, "later": 31 * day} {
		from(a, end-CertificateLifetime)
		issue(t, a, Client, name)
	}
	a.now = time.Now
	must(t, os.Remove(a.keyFile("keyless"))) // kept on its own machine only
	overwrite(t, a.keyFile("mixed"), a.keyFile("good"))
	must(t, os.Chmod(a.keyFile("open"), 0o644))
	must(t, os.WriteFile(a.path("stale", caCert), nil, 0o600))
	must(t, os.WriteFile(a.certFile("garbage"), []byte("garbage"), 0o600))
	overwrite(t, a.certFile("moved"), a.certFile("good"))
	must(t, os.Mkdir(a.path("empty"), 0o700))
	must(t, os.WriteFile(a.path("notes.txt"), nil, 0o600))

	want := map[string][2]string{
		"good": {}, "keyless": {}, "later": {},
		"mixed":   {"certificate and key do not belong together", "blkctl pki rotate mixed"},
		"open":    {"others may read its key", "chmod 600"},
		"stale":   {"its ca.crt is not the current one", "cp " + a.path(caCert)},
		"garbage": {"no PEM certificate", "issue it again"},
		"moved":   {"of somebody else", "issue it again"},
		"empty":   {"no such file", "issue it again"},
		"ended":   {"the certificate of client ended ended 9 days ago", "blkctl pki rotate ended"},
		"ending":  {"the certificate of client ending ends in 9 days", "blkctl pki rotate ending"},
	}
	check := func() {
		t.Helper()
		list, err := a.List()
		must(t, err)
		if len(list) != len(want) || !slices.IsSortedFunc(list, func(x, y *Certificate) int { return strings.Compare(x.Name, y.Name) }) {
			t.Errorf("%d are listed, want %d, by name", len(list), len(want))
		}
		for _, c := range list {
			w := want[c.Name]
			if !strings.Contains(c.Problem, w[0]) || !strings.Contains(c.Advice, w[1]) || (c.Problem == "") != (w[0] == "") {
				t.Errorf("%s: %q, %q", c.Name, c.Problem, c.Advice)
			}
		}
	}
	check()
	must(t, a.AddCA(CALifetime))
	for name, w := range want {
		if w[0] == "" || name == "stale" {
			want[name] = [2]string{"signed by the old CA prod/", "blkctl pki rotate --ca"}
		}
	}
	check()
}

func TestListAfterALostCA(t *testing.T) {
	a, b := cluster(t, "prod"), cluster(t, "prod")
	issue(t, a, Node, "n1")
	overwrite(t, a.path(caCert), b.path(caCert))
	must(t, a.Close())
	a, err := Open(a.dir)
	must(t, err)
	defer a.Close()
	list, err := a.List()
	must(t, err)
	if !strings.Contains(list[0].Problem, "which ca.crt does not hold") {
		t.Errorf("%+v", list[0])
	}
	_, err = a.Rotate("n1", nil, day)
	refusal(t, "the key is of the other CA", err, ErrBadFile, "does not hold the key of CA prod/"+b.cas.name().id)
}

func TestOneProcessAtATime(t *testing.T) {
	a := cluster(t, "prod")
	opened := make(chan error, 1)
	go func() {
		b, err := Open(a.dir)
		if err == nil && b.Changing() { // a's work was done when b read the files
			err = b.Close()
		} else if err == nil {
			err = errors.New("b did not see the change")
		}
		opened <- err
	}()
	must(t, a.AddCA(CALifetime))
	select {
	case err := <-opened:
		t.Errorf("two processes have it open (%v)", err)
	default:
	}
	must(t, a.Close())
	must(t, <-opened)
}

// TestOpenSSL has OpenSSL verify what it would of a TLS server and client.
func TestOpenSSL(t *testing.T) {
	a := cluster(t, "prod")
	issue(t, a, Node, "n1")
	issue(t, a, Client, "db1")
	openssl := func(args ...string) (string, error) {
		out, err := exec.Command("openssl", args...).CombinedOutput()
		return string(out), err
	}
	if _, err := openssl("version"); errors.Is(err, exec.ErrNotFound) {
		t.Log("openssl is not installed; crypto/x509 verifies alone")
		return
	}
	verify := func(name string, ok bool, args ...string) {
		t.Helper()
		out, err := openssl(append(append([]string{"verify", "-x509_strict", "-CAfile", a.path(name, caCert)}, args...), a.certFile(name))...)
		if (err == nil) != ok {
			t.Errorf("openssl verify %s %v: %v\n%s", name, args, err, out)
		}
	}
	verify("n1", true, "-purpose", "sslserver", "-verify_ip", "127.0.0.1")
	verify("n1", true, "-purpose", "sslclient", "-verify_hostname", "localhost")
	verify("n1", false, "-purpose", "sslserver", "-verify_hostname", "storage1")
	verify("db1", true, "-purpose", "sslclient")
	verify("db1", false, "-purpose", "sslserver")
	must(t, a.AddCA(CALifetime))
	verify("n1", true, "-purpose", "sslserver")
	_, err := a.Rotate("n1", nil, day)
	must(t, err)
	verify("n1", true, "-purpose", "sslserver")
	if out, err := openssl("x509", "-in", a.certFile("n1"), "-noout", "-ext", "subjectAltName"); err != nil || !strings.Contains(out, "URI:blkd://"+a.cas.name().id+"/node/n1") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := openssl("pkey", "-in", a.keyFile("n1"), "-check", "-noout"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestFilesIn(t *testing.T) {
	a := cluster(t, "prod")
	files := issue(t, a, Client, "db1")
	if want := (Files{a.path("db1/db1.crt"), a.path("db1/db1.key"), a.path("db1/ca.crt")}); files != want {
		t.Errorf("%+v", files)
	}
	for _, link := range []string{"ca-cert.pem", "client-cert.pem", "client-key.pem"} {
		if _, err := os.Stat(a.path("db1", link)); err != nil {
			t.Error(err)
		}
	}
	_, err := FilesIn(a.dir)
	refusal(t, "none", err, ErrBadFile, "0 certificates")
	overwrite(t, a.path("db1/n1.crt"), files.Cert)
	_, err = FilesIn(a.path("db1"))
	refusal(t, "two", err, ErrBadFile, "2 certificates")
}

func TestKeysOfOtherMakes(t *testing.T) {
	a := cluster(t, "prod")
	for name, text := range map[string]string{
		"empty": "", "text": "hello", "short": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		must(t, os.WriteFile(a.path(caKey), []byte(text), 0o600))
		_, err := a.Issue(Request{Role: Node, Name: "n1", Lifetime: day})
		refusal(t, name, err, ErrBadFile, caKey)
	}
	if _, err := x509.ParsePKCS8PrivateKey(nil); err == nil {
		t.Error("nothing is a key")
	}
}
