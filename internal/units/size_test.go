package units

import (
	"math"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "512": 512, "4096B": 4096, "1k": 1 << 10, "64KiB": 64 << 10, "64 kib": 64 << 10,
		"10M": 10 << 20, "1GiB": 1 << 30, "1.5GiB": 3 << 29, "0.5KiB": 512, "2TiB": 2 << 40,
		" 1PiB ": 1 << 50, "9223372036854775807": math.MaxInt64,
	} {
		got, err := ParseSize(in)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseSizeRefuses(t *testing.T) {
	for in, say := range map[string]string{
		"":                    "not a number",
		"GiB":                 "not a number",
		"-1":                  "not a number",
		"1XiB":                "write for example",
		"1GB":                 "write 1GiB",
		"1.2.3M":              "not a number",
		"0.3":                 "whole number of bytes",
		"9223372036854775808": "largest size",
		"1e3":                 "write for example",
	} {
		got, err := ParseSize(in)
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("ParseSize(%q) = %d, %v; want an error with %q", in, got, err, say)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 512: "512 B", 1023: "1023 B", 1 << 10: "1 KiB", 3 << 29: "1.5 GiB",
		1 << 40: "1 TiB", 12<<20 + 1: "12 MiB", math.MaxInt64: "8192 PiB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1GiB", "1.5G", "", "9223372036854775808", "1/2", "0x10", "1_0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("ParseSize(%q) = %d", s, n)
		}
		if back, err := ParseSize(Exact(n)); err != nil || back != n {
			t.Fatalf("Exact(%d) = %q, which reads as %d, %v", n, Exact(n), back, err)
		}
	})
}
