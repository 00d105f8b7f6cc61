package api

import (
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"blkd/metadata/metapb"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func exampleBackup() *metapb.Backup {
	return &metapb.Backup{Format: 1, Time: 1767225600_000000000, Index: 42, State: &metapb.State{
		Format: 1, Cluster: 0x0123456789abcdef, Name: "blkd", Version: 1, NextId: 3, NextVolume: 1, NextEvent: 9,
		Nodes:   []*metapb.Node{{Name: "n1", Id: 1, Address: "10.0.0.1:7400", Disk: 7}},
		Volumes: []*metapb.Volume{{Id: 1, Name: "pgdata", SizeBytes: 1 << 30, Generation: 17}},
		Voters:  []uint64{1},
	}}
}

// TestBackupGolden keeps files of every released version readable.
func TestBackupGolden(t *testing.T) {
	const file = "testdata/backup-1.hex"
	encoded, err := EncodeBackup(exampleBackup())
	if err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(hex.Dump(encoded)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.Dump(encoded); got != string(golden) {
		t.Errorf("%s differs (go test -rewrite accepts it):\n%s", file, got)
	}
	decoded, err := DecodeBackup(undump(t, string(golden)))
	if err != nil || !proto.Equal(decoded, exampleBackup()) {
		t.Errorf("%v, %v", decoded, err)
	}
}

// undump is the inverse of hex.Dump.
func undump(t *testing.T, dump string) []byte {
	t.Helper()
	var out []byte
	for _, line := range strings.Split(strings.TrimSpace(dump), "\n") {
		_, rest, _ := strings.Cut(line, "  ")
		digits, _, _ := strings.Cut(rest, "|")
		b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

// TestDamagedBackup flips every bit and cuts at every length.
func TestDamagedBackup(t *testing.T) {
	good, err := EncodeBackup(exampleBackup())
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := append([]byte{}, good...)
			bad[i] ^= 1 << bit
			if _, err := DecodeBackup(bad); !errors.Is(err, ErrBackup) {
				// The reserved word is covered by the checksum, too.
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
		if _, err := DecodeBackup(good[:i]); !errors.Is(err, ErrBackup) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := DecodeBackup(append(good, 0)); !errors.Is(err, ErrBackup) {
		t.Errorf("a byte more: %v", err)
	}
	empty, err := EncodeBackup(&metapb.Backup{Format: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeBackup(empty); err == nil || !strings.Contains(err.Error(), "no state of a cluster") {
		t.Errorf("without a state: %v", err)
	}
}

func FuzzDecodeBackup(f *testing.F) {
	good, err := EncodeBackup(exampleBackup())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:backupHeader])
	f.Fuzz(func(t *testing.T, file []byte) {
		if b, err := DecodeBackup(file); err == nil && b.State == nil {
			t.Error("accepted without a state")
		}
	})
}
