package metadata

import (
	"fmt"
	"strconv"
	"strings"

	"blkd/internal/units"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// parseCommand reads a command as tests write it: the name of the operation and
// fields as KEY=VALUE, both as in metadata.proto. Lists are separated by commas,
// sizes may end in K, M, G or T, and some values have a short form:
//
//	layout=mirror:2 layout=ec:4+2
//	labels=zone=a/rack=1
//	founders=n1,n2,n3,n4-      "-" does not vote; Raft ids 1, 2, …; addresses
//	                           n1:7400, …; disks 1001, …
//	members=n1,n2(Syncing),n3(amnesiac),n4#2,n5(leaving)    their nodes' incarnations; "#2" is
//	                           shard 2, "!" behind a shard has no log
//	@                          the record's present generation and number
func parseCommand(s *State, line string) (*metapb.Command, error) {
	words := strings.Fields(line)
	c := &metapb.Command{}
	fields := c.ProtoReflect().Descriptor().Fields()
	field := fields.ByName(protoreflect.Name(words[0]))
	if field == nil || field.ContainingOneof() == nil {
		return nil, fmt.Errorf("no operation is called %q", words[0])
	}
	op := c.ProtoReflect().Mutable(field).Message()
	for _, word := range words[1:] {
		if word == "@" {
			compareWithPresent(s, op)
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		into := op
		if op.Descriptor().Fields().ByName(protoreflect.Name(key)) == nil {
			into = c.ProtoReflect() // by, node, reason, time, request
		}
		if err := setField(s, into, key, value); err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
	}
	return c, nil
}

// compareWithPresent fills in what a compare-and-set compares.
func compareWithPresent(s *State, op protoreflect.Message) {
	text := func(name protoreflect.Name) string {
		if f := op.Descriptor().Fields().ByName(name); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			return op.Get(f).String()
		}
		return ""
	}
	v := s.Volume(text("volume") + text("name"))
	fields := op.Descriptor().Fields()
	op.Set(fields.ByName("generation"), protoreflect.ValueOfUint64(v.GetGeneration()))
	op.Set(fields.ByName("number"), protoreflect.ValueOfUint64(v.GetNumber()))
}

func setField(s *State, m protoreflect.Message, key, value string) error {
	f := m.Descriptor().Fields().ByName(protoreflect.Name(key))
	switch {
	case f == nil:
		return fmt.Errorf("%s has no such field", m.Descriptor().Name())
	case key == "layout":
		return setLayout(m, f, value)
	case key == "labels":
		labels := m.Mutable(f).Map()
		for pair := range strings.SplitSeq(value, "/") {
			k, v, _ := strings.Cut(pair, "=")
			labels.Set(protoreflect.ValueOfString(k).MapKey(), protoreflect.ValueOfString(v))
		}
		return nil
	case f.IsList():
		list := m.Mutable(f).List()
		for i, part := range strings.Split(value, ",") {
			v, err := listElement(s, f, key, part, i)
			if err != nil {
				return err
			}
			list.Append(v)
		}
		return nil
	}
	v, err := scalar(f, value)
	if err == nil {
		m.Set(f, v)
	}
	return err
}

func setLayout(m protoreflect.Message, f protoreflect.FieldDescriptor, value string) error {
	l := &metapb.Layout{}
	if _, err := fmt.Sscanf(value, "mirror:%d", &l.Copies); err == nil {
		l.Kind = metapb.LayoutKind_LAYOUT_KIND_MIRROR
	} else if _, err := fmt.Sscanf(value, "ec:%d+%d", &l.Data, &l.Parity); err == nil {
		l.Kind = metapb.LayoutKind_LAYOUT_KIND_EC
	} else {
		return err
	}
	m.Set(f, protoreflect.ValueOfMessage(l.ProtoReflect()))
	return nil
}

func listElement(s *State, f protoreflect.FieldDescriptor, key, part string, i int) (protoreflect.Value, error) {
	switch key {
	case "founders":
		name, silent := strings.CutSuffix(part, "-")
		return protoreflect.ValueOfMessage((&metapb.Founder{
			Name: name, Id: uint64(i + 1), Address: name + ":7400", Disk: uint64(1001 + i), Voter: !silent,
		}).ProtoReflect()), nil
	case "members":
		m, err := parseMember(s, part)
		return protoreflect.ValueOfMessage(m.ProtoReflect()), err
	}
	return scalar(f, part)
}

// parseMember reads "n2(Syncing)#1!".
func parseMember(s *State, text string) (*metapb.Member, error) {
	text, noLog := strings.CutSuffix(text, "!")
	text, shard, sharded := strings.Cut(text, "#")
	text, leaving := strings.CutSuffix(text, "(leaving)")
	name, state, _ := strings.Cut(strings.TrimSuffix(text, ")"), "(")
	m := &metapb.Member{Node: name, State: metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE, Log: !noLog, Leaving: leaving}
	m.Incarnation = s.Node(name).GetIncarnation()
	if sharded {
		n, err := strconv.Atoi(shard)
		if err != nil {
			return nil, err
		}
		m.Shard = int32(n)
	}
	switch {
	case state == "amnesiac":
		m.Amnesiac = true
	case state != "":
		for n := range metapb.ReplicaState_name {
			if metapb.StateWord(metapb.ReplicaState(n)) == state {
				m.State = metapb.ReplicaState(n)
			}
		}
	}
	return m, nil
}

func scalar(f protoreflect.FieldDescriptor, value string) (protoreflect.Value, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(value), nil
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(value)), nil
	case protoreflect.BoolKind:
		on, err := strconv.ParseBool(value)
		return protoreflect.ValueOfBool(on), err
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		for i := range values.Len() {
			if strings.HasSuffix(string(values.Get(i).Name()), "_"+strings.ToUpper(value)) {
				return protoreflect.ValueOfEnum(values.Get(i).Number()), nil
			}
		}
		return protoreflect.Value{}, fmt.Errorf("%s has no value %q", f.Enum().Name(), value)
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		n, err = units.ParseSize(value)
	}
	switch f.Kind() {
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n), err
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n)), err
	}
	return protoreflect.ValueOfUint64(uint64(n)), err
}

// requestOf makes a request id of a number.
func requestOf(n uint64) []byte {
	return fmt.Appendf(nil, "request %08d", n)[:16]
}

// withoutAnswers encodes a state but for the answers to requests, to which a refusal
// adds as well.
func withoutAnswers(s *State) []byte {
	other := *s
	other.applied = requestLog{}
	return other.Encode()
}
