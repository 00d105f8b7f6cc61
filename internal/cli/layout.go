package cli

import (
	"fmt"
	"strconv"
	"strings"

	"blkd/metadata/metapb"
)

// parseLayout reads "mirror 3" or "ec 4+2"; between the words may be a dash, an
// equals sign or a colon as well. Whether the numbers make sense the quorum says.
func parseLayout(s string) (*metapb.Layout, error) {
	wrong := fmt.Errorf("layout %q: write \"mirror N\" for N copies, or \"ec K+M\" for K data and M parity shards", s)
	words := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return strings.ContainsRune(" -=:", r) })
	if len(words) != 2 {
		return nil, wrong
	}
	switch words[0] {
	case "mirror":
		copies, err := count(words[1])
		if err != nil {
			return nil, wrong
		}
		return &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: copies}, nil
	case "ec":
		k, m, found := strings.Cut(words[1], "+")
		data, err := count(k)
		if err != nil || !found {
			return nil, wrong
		}
		parity, err := count(m)
		if err != nil {
			return nil, wrong
		}
		return &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: data, Parity: parity}, nil
	default:
		return nil, wrong
	}
}

func count(s string) (int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err == nil && n < 1 {
		err = strconv.ErrRange
	}
	return int32(n), err
}

var acks = map[string]metapb.AckPolicy{
	"":         metapb.AckPolicy_ACK_POLICY_UNSPECIFIED,
	"all":      metapb.AckPolicy_ACK_POLICY_ALL,
	"majority": metapb.AckPolicy_ACK_POLICY_MAJORITY,
}

var durabilities = map[string]metapb.Durability{
	"":      metapb.Durability_DURABILITY_UNSPECIFIED,
	"flush": metapb.Durability_DURABILITY_FLUSH,
	"write": metapb.Durability_DURABILITY_WRITE,
}

// choice looks a flag's word up.
func choice[T any](flag, word string, words map[string]T, example string) (T, error) {
	v, ok := words[word]
	if !ok {
		return v, fmt.Errorf("--%s=%s: write %s", flag, word, example)
	}
	return v, nil
}
