package metadata

import (
	"strconv"
	"strings"
)

const nameRule = "use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit"

// validName tells whether a node or volume may have this name.
func validName(name string) bool {
	if name == "" || len(name) > 63 || strings.ContainsRune("._-", rune(name[0])) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func checkNodeName(name string) *Refusal {
	if !validName(name) {
		return invalid("node name %.80q: %s", name, nameRule)
	}
	return nil
}

// checkAddress checks that an address has the form HOST:PORT; a host may be an IPv6 address in
// brackets. Whether it can be reached is not for a state machine to find out.
func checkAddress(address string) *Refusal {
	colon := strings.LastIndexByte(address, ':')
	port, err := strconv.ParseUint(address[colon+1:], 10, 16)
	if colon <= 0 || err != nil || port == 0 || len(address) > 300 || strings.ContainsAny(address, " \t\n/") {
		return invalid("%.80q is no address", address).advise("write HOST:PORT, for example n1.example:7400")
	}
	return nil
}
