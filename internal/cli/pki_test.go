package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"blkd/internal/pki"
)

// blkctl runs a command line and returns its exit code and what it printed.
func blkctl(args ...string) (code Code, out, errs string) {
	var o, e bytes.Buffer
	code = Run(context.Background(), args, Streams{In: strings.NewReader(""), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

// pkiRun runs a command of pki that must succeed.
func pkiRun(t *testing.T, dir string, args ...string) PKI {
	t.Helper()
	code, out, errs := blkctl(append([]string{"pki", "--dir", dir, "-o", "json"}, args...)...)
	if code != OK {
		t.Fatalf("%v: exit code %d, %s", args, code, errs)
	}
	var p PKI
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func examplePKI() PKI {
	cert := func(role pki.Role, name string, days int) *pki.Certificate {
		return &pki.Certificate{Identity: pki.Identity{Role: role, Name: name, CA: "3f9a1c0d2b7e4a55"}, Serial: "4000000000000001",
			NotBefore: noon.AddDate(0, -1, 0), NotAfter: noon.AddDate(0, 0, days), Dir: "pki/" + name}
	}
	ca := cert("", "prod", 3620)
	ca.Dir = "pki"
	n1, alice := cert(pki.Node, "n1", 12), cert(pki.Admin, "alice", 335)
	n1.Hosts = []string{"n1.example", "10.0.0.1"}
	n1.Problem, n1.Advice = "the certificate of node n1 ends in 12 days", "blkctl pki rotate n1"
	broken := &pki.Certificate{Identity: pki.Identity{Name: "old"}, Dir: "pki/old", Problem: "pki/old/old.crt holds no PEM certificate",
		Advice: "delete pki/old and issue it again"}
	return PKI{Dir: "pki", Cluster: "prod", CAs: newCertificates([]*pki.Certificate{ca}, noon),
		Certificates: newCertificates([]*pki.Certificate{alice, n1, broken}, noon), Next: afterRotate([]*pki.Certificate{n1, alice})}
}

func TestPKIOutput(t *testing.T) {
	for name, format := range map[string]string{"pki.json": formatJSON, "pki.txt": formatTable, "pki_wide.txt": formatWide} {
		var out bytes.Buffer
		if err := show(&out, format, pkiResult(examplePKI(), "issued again to node n1, admin alice")); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.Bytes())
	}
}

// TestPKIChangeOfCA does every step that the program names, and checks at each
// that whoever has done the last step and whoever has not trust each other.
func TestPKIChangeOfCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	pkiRun(t, dir, "init", "--name", "prod")
	pkiRun(t, dir, "issue", "node", "n1", "--host", "n1.example")
	pkiRun(t, dir, "issue", "node", "n2")
	n1, n2 := holder{"n1", t.TempDir()}, holder{"n2", t.TempDir()}
	n1.fetch(t, dir)
	n2.fetch(t, dir)
	n1.meets(t, n2)

	p := pkiRun(t, dir, "rotate", "--ca")
	if !p.Changing || len(p.CAs) != 2 || len(p.Next) != 3 {
		t.Fatalf("after rotate --ca: %+v", p)
	}
	n1.fetch(t, dir)
	n1.meets(t, n2)
	if code, _, errs := blkctl("pki", "--dir", dir, "rotate", "--ca", "--drop-old"); code != Refused || !strings.Contains(errs, "n1, n2") {
		t.Errorf("--drop-old while it is needed: exit code %d, %s", code, errs)
	}
	n2.fetch(t, dir)

	if p = pkiRun(t, dir, "rotate", "--all"); len(p.Certificates) != 2 || p.Certificates[0].CA != p.CAs[0].CA {
		t.Fatalf("after rotate --all: %+v", p)
	}
	if got := p.Certificates[0].Hosts; !slices.Equal(got, []string{"n1.example"}) {
		t.Errorf("hosts after rotate: %v", got)
	}
	if last := p.Next[len(p.Next)-1]; !strings.Contains(last, "--drop-old --dir "+dir) {
		t.Errorf("the last step is %q", last)
	}
	n1.fetch(t, dir)
	n1.meets(t, n2)
	n2.fetch(t, dir)

	if p = pkiRun(t, dir, "rotate", "--ca", "--drop-old"); p.Changing || len(p.CAs) != 1 || len(p.Next) != 1 {
		t.Fatalf("after --drop-old: %+v", p)
	}
	n1.fetch(t, dir)
	n1.meets(t, n2)
	if list := pkiRun(t, dir, "list"); len(list.Certificates) != 2 || list.Certificates[0].Problem != "" || len(list.Next) != 0 {
		t.Errorf("list at the end: %+v", list)
	}
}

// holder is somebody with a directory of files.
type holder struct{ name, dir string }

// fetch copies what was issued.
func (h holder) fetch(t *testing.T, from string) {
	t.Helper()
	for _, name := range []string{h.name + ".crt", h.name + ".key", "ca.crt"} {
		text, err := os.ReadFile(filepath.Join(from, h.name, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// meets checks that both trust each other.
func (h holder) meets(t *testing.T, o holder) {
	t.Helper()
	for _, pair := range [][2]holder{{h, o}, {o, h}} {
		roots, err := os.ReadFile(filepath.Join(pair[0].dir, "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(pair[1].dir, pair[1].name+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(roots)
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool}); err != nil {
			t.Errorf("%s does not trust %s: %v", pair[0].name, pair[1].name, err)
		}
	}
}

func TestPKIErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	refused := func(want Code, text string, args ...string) {
		t.Helper()
		code, _, errs := blkctl(append([]string{"pki", "--dir", dir}, args...)...)
		if code != want || !strings.Contains(errs, text) {
			t.Errorf("%v: exit code %d, want %d with %q: %s", args, code, want, text, errs)
		}
	}
	refused(NotFound, "there is no CA in", "list")
	refused(NotFound, "next: blkctl pki init", "issue", "node", "n1")
	pkiRun(t, dir, "init")
	refused(Conflict, "nothing was changed", "init")
	pkiRun(t, dir, "issue", "node", "n1")
	pkiRun(t, dir, "issue", "admin", "alice")
	refused(Conflict, "blkctl pki rotate n1", "issue", "node", "n1")
	refused(Usage, `"nod" is none of node, admin, client`, "issue", "nod", "n2")
	refused(Usage, "small letters", "issue", "node", "N2")
	refused(Usage, "leave a port out", "issue", "node", "n2", "--host", "n2:10809")
	refused(Usage, "not between 1 and 36500", "issue", "node", "n2", "--days", "36501")
	refused(Usage, "not between 1 and 36500", "issue", "node", "n2", "--days", "-1")
	refused(NotFound, "nothing was issued to n9", "rotate", "n9")
	refused(NotFound, "before that, node n1 was issued again", "rotate", "n1", "n9")
	refused(Usage, "whose certificate?", "rotate")
	refused(Usage, "whose certificate?", "rotate", "--all", "n1")
	refused(Usage, "--ca changes the CA alone", "rotate", "--ca", "n1")
	refused(Usage, "write: blkctl pki rotate --ca --drop-old", "rotate", "--drop-old", "n1")
	refused(Usage, "--host is for one node", "rotate", "--all", "--host", "x")
	refused(Usage, "hosts are for nodes", "rotate", "alice", "--host", "x")
}

func TestPKIDays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	pkiRun(t, dir, "init", "--days", "100")
	for args, want := range map[string]int{"a --days 7": 7, "b": 100, "c --days 5000": 100} {
		if p := pkiRun(t, dir, append([]string{"issue", "client"}, strings.Fields(args)...)...); p.Certificates[0].DaysLeft != want {
			t.Errorf("%s: %d days, want %d", args, p.Certificates[0].DaysLeft, want)
		}
	}
	f := pkiFlags{days: 1 << 60}
	if got := f.lifetime(time.Hour); got < 0 {
		t.Errorf("lifetime overflows to %v", got)
	}
}

// TestTLSDir: --tls-dir takes what issue wrote, and says what is wrong with it.
func TestTLSDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	pkiRun(t, dir, "init")
	pkiRun(t, dir, "issue", "admin", "alice")
	a := &app{Streams: Streams{Out: io.Discard, Err: io.Discard}, tls: tlsFiles{dir: filepath.Join(dir, "alice")}}
	if _, err := a.credentials(); err != nil {
		t.Error(err)
	}
	if code, _, errs := blkctl("--node", "127.0.0.1:1", "--tls-dir", dir, "status"); code != Failed || !strings.Contains(errs, "next: copy there what blkctl pki issue wrote") {
		t.Errorf("a directory without a pair: exit code %d, %s", code, errs)
	}
	if code, _, errs := blkctl("--node", "127.0.0.1:1", "--tls-dir", dir, "--tls-ca", "x", "status"); code != Usage || !strings.Contains(errs, "holds all three") {
		t.Errorf("both forms: exit code %d, %s", code, errs)
	}
}
