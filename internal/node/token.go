package node

import (
	"fmt"
	"strconv"
	"strings"
)

// token is what a client shows of its attachment: parameters behind the export's
// name, which every NBD client can send. A semicolon and an equals sign stand in URIs
// as they are.
//
//	pg;attachment=ID-NUMBER   the session NUMBER of the volume with that id
//	pg;read-only              reads, whoever has attached the volume
//	pg                        a client that knows nothing of attachments
type token struct {
	id, number uint64 // 0: there is none
	readOnly   bool
}

const (
	attachmentParameter = "attachment="
	readOnlyParameter   = "read-only"
)

// of is the export name with the token.
func (t token) of(volume string) string {
	if t.number == 0 {
		return volume
	}
	return fmt.Sprintf("%s;%s%d-%d", volume, attachmentParameter, t.id, t.number)
}

// parseToken reads the parameters of an export name.
func parseToken(parameters string) (t token, err error) {
	if parameters == "" {
		return t, nil
	}
	for _, p := range strings.Split(parameters, ";") {
		value, ok := strings.CutPrefix(p, attachmentParameter)
		id, number, dash := strings.Cut(value, "-")
		switch {
		case p == readOnlyParameter:
			t.readOnly = true
		case ok && dash && t.number == 0:
			var errID, errNumber error
			t.id, errID = strconv.ParseUint(id, 10, 64)
			t.number, errNumber = strconv.ParseUint(number, 10, 64)
			if errID == nil && errNumber == nil && t.id != 0 && t.number != 0 {
				break
			}
			fallthrough
		default:
			return token{}, fmt.Errorf("export parameter %.64q is not understood; write NAME, NAME;read-only, or NAME;attachment=TOKEN with what blkctl attach prints", p)
		}
	}
	return t, nil
}
