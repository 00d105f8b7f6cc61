// Package units reads and prints sizes the way operators write them: IEC units,
// powers of 1024.
package units

import (
	"fmt"
	"math"
	"math/big"
	"strings"
)

var suffixes = map[string]int{
	"": 0, "b": 0,
	"k": 10, "kib": 10,
	"m": 20, "mib": 20,
	"g": 30, "gib": 30,
	"t": 40, "tib": 40,
	"p": 50, "pib": 50,
}

// Decimal units are refused: an operator who writes GB may mean either.
var decimal = map[string]string{"kb": "KiB", "mb": "MiB", "gb": "GiB", "tb": "TiB", "pb": "PiB"}

// ParseSize reads a size in bytes: "4096", "64KiB", "1.5GiB", "10G". Units are
// powers of 1024 and their case does not matter. The error says what is wrong
// with s and what to write instead.
func ParseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	end := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(text)
	}
	digits, unit := text[:end], strings.ToLower(strings.TrimSpace(text[end:]))
	if iec, ok := decimal[unit]; ok {
		return 0, fmt.Errorf("size %q: %s is ambiguous; write %s%s (powers of 1024)", s, text[end:], digits, iec)
	}
	shift, ok := suffixes[unit]
	if !ok || digits == "" {
		return 0, fmt.Errorf("size %q is not a number with a unit; write for example 512MiB, 10GiB or 2TiB", s)
	}
	n, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, fmt.Errorf("size %q: %q is not a number", s, digits)
	}
	n.Mul(n, new(big.Rat).SetInt64(1<<shift))
	if !n.IsInt() {
		return 0, fmt.Errorf("size %q is not a whole number of bytes", s)
	}
	if !n.Num().IsInt64() {
		return 0, fmt.Errorf("size %q is beyond the largest size, %s", s, Size(math.MaxInt64))
	}
	return n.Num().Int64(), nil
}

var printed = []struct {
	unit  string
	shift int
}{{"PiB", 50}, {"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// Size prints n bytes for people: "1 GiB", "12.5 MiB", "512 B". It rounds; what
// must be exact is printed with [Exact].
func Size(n int64) string {
	for _, p := range printed {
		if n >= 1<<p.shift {
			v := float64(n) / float64(int64(1)<<p.shift)
			text := fmt.Sprintf("%.1f", v)
			return strings.TrimSuffix(text, ".0") + " " + p.unit
		}
	}
	return fmt.Sprintf("%d B", n)
}

// Exact prints n bytes so that [ParseSize] reads the same n back, in the largest
// unit that needs no fraction: "1GiB", "1536MiB", "513B".
func Exact(n int64) string {
	for _, p := range printed {
		if n != 0 && n%(1<<p.shift) == 0 {
			return fmt.Sprintf("%d%s", n>>p.shift, p.unit)
		}
	}
	return fmt.Sprintf("%dB", n)
}
