package node

import (
	"fmt"
	"strconv"
	"strings"

	"blkd/blockdev"
)

// token is what a client shows of its attachment: parameters behind the export's
// name, which every NBD client can send. A semicolon and an equals sign stand in URIs
// as they are.
//
//	pg;attachment=ID-NUMBER   the session NUMBER of the volume with that id
//	pg;read-only              reads, whoever has attached the volume
//	pg                        a client that knows nothing of attachments
//	pg;session=CLIENT-NUMBER  another node, which numbers the mutations that it passes on
type token struct {
	id, number uint64          // 0: there is none
	from       blockdev.Origin // zero: not another node
	readOnly   bool
}

const (
	attachmentParameter = "attachment="
	sessionParameter    = "session="
	readOnlyParameter   = "read-only"
)

// of is the export name with the token.
func (t token) of(volume string) string {
	if t.number == 0 {
		return volume
	}
	name := fmt.Sprintf("%s;%s%d-%d", volume, attachmentParameter, t.id, t.number)
	if t.from.Client != 0 {
		name += fmt.Sprintf(";%s%d-%d", sessionParameter, t.from.Client, t.from.Session)
	}
	return name
}

// parseToken reads the parameters of an export name.
func parseToken(parameters string) (t token, err error) {
	if parameters == "" {
		return t, nil
	}
	for _, p := range strings.Split(parameters, ";") {
		name, value, _ := strings.Cut(p, "=")
		ok := false
		switch name + "=" {
		case attachmentParameter:
			ok = t.number == 0 && parsePair(value, &t.id, &t.number)
		case sessionParameter:
			ok = t.from.Client == 0 && parsePair(value, &t.from.Client, &t.from.Session)
		case readOnlyParameter + "=":
			ok = p == readOnlyParameter
			t.readOnly = true
		}
		if !ok {
			return token{}, fmt.Errorf("export parameter %.64q is not understood; write NAME, NAME;read-only, or NAME;attachment=TOKEN with what blkctl attach prints", p)
		}
	}
	return t, nil
}

// parsePair reads two numbers with a dash between them, which are not 0.
func parsePair(s string, a, b *uint64) bool {
	first, second, _ := strings.Cut(s, "-")
	var errA, errB error
	*a, errA = strconv.ParseUint(first, 10, 64)
	*b, errB = strconv.ParseUint(second, 10, 64)
	return errA == nil && errB == nil && *a != 0 && *b != 0
}
