package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"blkd/metadata/metapb"
)

// A backup file, all numbers little-endian; docs/formats/backup.md:
//
//	magic "BLKDMETA" │ format u32 │ zero u32 │ length u64 │ metapb.Backup │ CRC-32C u32 of all before
const (
	backupMagic  = "BLKDMETA"
	backupFormat = 1
	backupHeader = len(backupMagic) + 4 + 4 + 8
	backupTail   = 4
)

// ErrBackup is what every error of [DecodeBackup] wraps: the file cannot be used.
var ErrBackup = errors.New("no usable backup")

// StagedBackup is the name, in a blank data directory, of the backup that the
// node founds a new cluster from; "blkctl cluster snapshot restore" puts it there.
const StagedBackup = "restore.backup"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EncodeBackup is the content of a backup file.
func EncodeBackup(b *metapb.Backup) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode a backup: %w", err)
	}
	file := append(make([]byte, 0, backupHeader+len(body)+backupTail), backupMagic...)
	file = binary.LittleEndian.AppendUint32(file, backupFormat)
	file = binary.LittleEndian.AppendUint32(file, 0)
	file = binary.LittleEndian.AppendUint64(file, uint64(len(body)))
	file = append(file, body...)
	return binary.LittleEndian.AppendUint32(file, crc32.Checksum(file, castagnoli)), nil
}

// DecodeBackup checks a backup file and reads it. The error, an [ErrBackup], says
// what is wrong with it.
func DecodeBackup(file []byte) (*metapb.Backup, error) {
	bad := func(format string, args ...any) (*metapb.Backup, error) {
		return nil, fmt.Errorf("%w: %s", ErrBackup, fmt.Sprintf(format, args...))
	}
	if !bytes.HasPrefix(file, []byte(backupMagic)) {
		return bad("it is no file of blkctl cluster snapshot save")
	}
	if len(file) < backupHeader+backupTail {
		return bad("it ends after %d bytes, within its header", len(file))
	}
	numbers := file[len(backupMagic):]
	if format := binary.LittleEndian.Uint32(numbers); format != backupFormat {
		return bad("its format is %d, this build reads format %d; use a build as new as the one that wrote it", format, backupFormat)
	}
	body := file[backupHeader : len(file)-backupTail]
	if length := binary.LittleEndian.Uint64(numbers[8:]); length != uint64(len(body)) {
		return bad("it should hold %d bytes and holds %d: it was cut off, or something was added", length, len(body))
	}
	sum := binary.LittleEndian.Uint32(file[len(file)-backupTail:])
	if have := crc32.Checksum(file[:len(file)-backupTail], castagnoli); have != sum {
		return bad("its CRC-32C is %08x, its content has %08x: it is damaged", sum, have)
	}
	b := new(metapb.Backup)
	if err := proto.Unmarshal(body, b); err != nil {
		return bad("%v", err)
	}
	if b.Format != backupFormat || b.State == nil || b.State.Cluster == 0 {
		return bad("it holds no state of a cluster")
	}
	return b, nil
}
