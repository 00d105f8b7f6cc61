package pki

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseIdentity(t *testing.T) {
	id, err := ParseIdentity("blkd://0123456789abcdef/node/n1")
	if err != nil || id != (Identity{Node, "n1", "0123456789abcdef"}) || id.String() != "node n1" {
		t.Errorf("%+v, %v", id, err)
	}
	for _, bad := range []string{
		"", "blkd://", "blkd:///node/n1", "blkd://0123456789abcdef/node", "blkd://0123456789abcdef/node/", "blkd://0123456789abcdef/node/n1/",
		"blkd://0123456789abcdef/root/n1", "blkd://0123456789ABCDEF/node/n1", "blkd://0123456789abcde/node/n1", "blkd://0123456789abcdef0/node/n1",
		"http://0123456789abcdef/node/n1", "BLKD://0123456789abcdef/node/n1", "blkd://0123456789abcdef/node/n%31", "blkd://0123456789abcdef/node/n1?x",
		"blkd://0123456789abcdef/node/n1#x", "blkd://0123456789abcdef:80/node/n1", "blkd://u@0123456789abcdef/node/n1", "blkd://0123456789abcdef/node/n 1",
		"blkd://0123456789abcdef/node/..", "blkd://0123456789abcdef/node/n1\n", " blkd://0123456789abcdef/node/n1",
		"blkd://0123456789abcdef/node/" + strings.Repeat("n", 64),
	} {
		if id, err := ParseIdentity(bad); err == nil {
			t.Errorf("%q is %v", bad, id)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, role := range Roles {
		f.Add(Identity{role, "n1.example_2-x", "0123456789abcdef"}.URI())
	}
	f.Add("blkd://0123456789abcdef/node/n%31")
	f.Add("blkd:///../node/")
	f.Fuzz(func(t *testing.T, uri string) {
		id, err := ParseIdentity(uri)
		if err != nil {
			if id != (Identity{}) {
				t.Errorf("%q is refused, and yet is %+v", uri, id)
			}
			return
		}
		if id.URI() != uri {
			t.Errorf("%q became %q: two ways to write one identity", uri, id.URI())
		}
		if strings.ContainsAny(id.Name, "/\x00 \n") || id.Name == "." || id.Name == ".." {
			t.Errorf("%q has the name %q", uri, id.Name)
		}
	})
}

func TestCheck(t *testing.T) {
	n1 := Identity{Node, "n1", "0123456789abcdef"}
	must(t, n1.Check(Node, "n1"))
	must(t, n1.Check(Node, ""))
	refusal(t, "name", n1.Check(Node, "n2"), ErrOtherName, "the certificate is of node n1, not of node n2")
	refusal(t, "role", n1.Check(Admin, ""), ErrRole, "the certificate is of node n1, and only an admin may do this", "blkctl pki issue admin NAME")
	refusal(t, "nobody", Identity{}.Check(Client, "db1"), ErrNoCertificate, "only client db1 may do this", "blkctl pki issue client db1")
	if _, err := PeerIdentity(tls.ConnectionState{}); err == nil {
		t.Error("nobody has an identity")
	}
}

func TestExpiries(t *testing.T) {
	a := cluster(t, "prod")
	from(a, 9*day-CertificateLifetime)
	files := issue(t, a, Node, "n1")
	r := expired(t, a, files)
	list := r.Expiries()
	if len(list) != 2 || list[0].Holder != "node n1" || list[1].Holder != "CA "+a.cas.name().String() || time.Until(list[0].NotAfter).Round(day) != 9*day {
		t.Errorf("%v", list)
	}
	problems := r.Problems()
	if len(problems) != 1 || problems[0] != (Problem{"certificate_ends", "the certificate of node n1 ends in 9 days", "blkctl pki rotate n1"}) {
		t.Errorf("%+v", problems)
	}
	must(t, os.Chmod(files.Key, 0o640)) // for a group it may be meant
	if list := r.Problems(); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	must(t, os.Chmod(files.Key, 0o604))
	r.now = func() time.Time { return a.CAs()[0].NotAfter.Add(-30 * time.Hour) }
	for i, want := range []string{"the certificate of node n1 ended ", "CA " + a.cas.name().String() + " ends in 30 hours", "every user may open the private key"} {
		if list := r.Problems(); len(list) != 3 || !strings.HasPrefix(list[i].Text, want) {
			t.Errorf("%+v", list)
		}
	}
}

func TestRoughly(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 minutes", time.Minute: "1 minute", 90 * time.Minute: "90 minutes", 2 * time.Hour: "2 hours", 47 * time.Hour: "47 hours",
		48 * time.Hour: "2 days", 9*day - time.Second: "9 days", 400 * day: "400 days",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestRequireTLS(t *testing.T) {
	for _, tc := range []struct {
		addresses []string
		insecure  bool
		bad       string
	}{
		{nil, false, ""},
		{[]string{"127.0.0.1:7400", "[::1]:7400", "localhost:7400", "127.9.9.9:1", "unix:/run/x", "[::ffff:127.0.0.1]:1"}, false, ""},
		{[]string{"127.0.0.1:7400", "192.0.2.1:7400"}, false, "192.0.2.1:7400"},
		{[]string{"127.0.0.1:7400", "192.0.2.1:7400"}, true, ""},
		{[]string{":7400"}, false, ":7400"},
		{[]string{"0.0.0.0:7400"}, false, "0.0.0.0:7400"},
		{[]string{"[::]:7400"}, false, "[::]:7400"},
		{[]string{"storage1:7400"}, false, "storage1:7400"},
		{[]string{"localhost.example:7400"}, false, "localhost.example:7400"},
		{[]string{"127.0.0.1.example:7400"}, false, "127.0.0.1.example:7400"},
		{[]string{"127.0.0.1"}, false, "127.0.0.1"},
		{[]string{""}, false, ""},
	} {
		err := RequireTLS(tc.addresses, tc.insecure)
		if tc.bad == "" && !(len(tc.addresses) == 1 && tc.addresses[0] == "") {
			if err != nil {
				t.Errorf("%v: %v", tc.addresses, err)
			}
			continue
		}
		refusal(t, tc.bad, err, ErrPlainText, tc.bad+" can be reached over the network", "blkctl pki init", "blkctl pki issue node NAME --host ", "--insecure")
	}
}
