package suggest

import "testing"

func TestNearest(t *testing.T) {
	words := []string{"volume", "nbd.tls", "nbd.tls_cert", "data_dir"}
	for word, want := range map[string]string{
		"volum": "volume", "volumes": "volume", "nbd.tsl": "nbd.tls", "nbd.tls_crt": "nbd.tls_cert",
		"datadir": "data_dir", "nbd.tls_certificate": "nbd.tls_cert", "colour": "", "": "",
	} {
		got, ok := Nearest(word, words)
		if got != want || ok != (want != "") {
			t.Errorf("Nearest(%q) = %q, %v; want %q", word, got, ok, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"same", "same", 0}} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
