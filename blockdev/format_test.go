package blockdev

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"blkd/internal/env/crashfs"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// Samples of every structure. The golden files of every version must decode for
// ever: a new version adds files, it does not change older ones.
var (
	sampleSuper = superblock{
		serial: 7, uuid: [16]byte{1, 2, 3, 15: 16}, size: 3 << 20, logBytes: MinLog, clean: true,
		incarnation: 5, incStart: 70_000, ckpt: 9, replayFrom: 65_536, lastGen: 3, lastSeq: 1234, commit: 1240, durable: 69_000,
		incomplete: true, wipe: true, copied: 1236, base: 1200, baseGen: 2, floor: 17, keep: [4]logPoint{{40_000, 2, 1100}, {46_000, 2, 1102}, {52_000, 3, 1103}, {58_000, 3, 1104}},
		gens: [keptGens]genStart{{1, 1}, {2, 700}, {3, 1103}}, sessions: 5, sessionsSum: 0xfeedf00d,
	}
	sampleRecords = map[string]record{
		"data":       {kind: recData, blocks: 2, pos: 4096, gen: 1, seq: 1, off: 8192, len: 8192, commit: 1, durable: 4096, incarnation: 1},
		"ref":        {kind: recRef, blocks: 16, pos: 12_376, gen: 1, seq: 2, off: 65_536, len: 65_536, commit: 1, durable: 4096, incarnation: 1, phys: 77},
		"ref-zeroed": {kind: recRef, flags: flagZeroed, blocks: 32, pos: 12_520, gen: 2, seq: 3, off: 131_072, len: 131_072, incarnation: 2, phys: 80},
		"zero":       {kind: recZero, pos: 12_600, gen: 2, seq: 4, off: 1 << 30, len: 1 << 40, incarnation: 2},
		"skip":       {kind: recSkip, pos: 12_680, gen: 2, seq: 4, incarnation: 2},
		"mark":       {kind: recMark, pos: 12_760, gen: 3, seq: 5, commit: 4, incarnation: 2},
		"data-origin": {kind: recData, flags: flagOrigin, blocks: 2, pos: 12_840, gen: 3, seq: 6, off: 8192, len: 8192, commit: 5, incarnation: 2,
			origin: Origin{Client: 0xc1, Session: 0x51, Op: 1}},
		"zero-more": {kind: recZero, flags: flagOrigin | flagMore, pos: 21_144, gen: 3, seq: 7, off: 8192, len: 4096, incarnation: 2,
			origin: Origin{Client: 0xc1, Session: 0x51, Op: 2, More: true}},
	}
)

// sampleSessions has one client with gaps, and one that has begun something.
func sampleSessions() *Sessions {
	t := new(Sessions)
	for seq, o := range []Origin{{1, 7, 1, false}, {1, 7, 2, false}, {1, 7, 5, false}, {9, 3, 1, true}, {9, 3, 2, false}} {
		t.Add(o, Seq(100+seq), 1<<20)
	}
	return t
}

// sampleCRC is the checksum of block n of a sample record.
func sampleCRC(n int) uint32 { return uint32(0x1000 + n) }

func sampleBytes() map[string][]byte {
	super := make([]byte, superBytes)
	sampleSuper.encode(super)
	files := map[string][]byte{"super": super[:512]}
	for name, r := range sampleRecords {
		b := make([]byte, r.headerBytes())
		for n := range r.crcs() {
			le.PutUint32(b[recHeader+4*n:], sampleCRC(n))
		}
		r.encode(b)
		files["record-"+name] = b
	}
	var p page
	e := p.entry(3)
	e.setPhys(8)
	e.setPresent(1 << 5)
	e.setCRC(5, 0xdeadbeef)
	p.setApplied(12_520)
	p.touch(e, 5<<stampShift|7)
	p.touch(p.entry(4), 9<<stampShift|3)
	p.seal(mapPages, 2, 9)
	files["page-map"] = p[:512]
	files["sessions"] = sampleSessions().Append(nil)
	return files
}

// TestFormatGolden pins what the present version writes.
func TestFormatGolden(t *testing.T) {
	for name, b := range sampleBytes() {
		file := filepath.Join("testdata", "format-v3", name+".hex")
		if *rewrite {
			if err := os.WriteFile(file, []byte(hex.Dump(b)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.Dump(b); got != string(want) {
			t.Errorf("%s: encoding has changed\n%s", name, got)
		}
	}
}

// TestFormatDecodesAll decodes the golden files of every version.
func TestFormatDecodesAll(t *testing.T) {
	v2 := sampleSuper
	v2.sessions, v2.sessionsSum = 0, 0
	v1 := v2
	v1.incomplete, v1.wipe, v1.copied, v1.base, v1.baseGen, v1.floor, v1.keep, v1.gens = false, false, 0, 0, 0, unknownFloor, [4]logPoint{}, [keptGens]genStart{}
	for version, super := range map[string]superblock{"format-v1": v1, "format-v2": v2, "format-v3": sampleSuper} {
		files, err := filepath.Glob(filepath.Join("testdata", version, "*.hex"))
		if err != nil || len(files) < 7 {
			t.Fatalf("%s has %d golden files, %v", version, len(files), err)
		}
		for _, file := range files {
			if err := decodesAs(file, super); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// decodesAs decodes a golden file and compares it with its sample.
func decodesAs(file string, super superblock) error {
	b, err := undump(file)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(file), ".hex")
	var got, want any
	changed := Seq(5<<stampShift | (1<<stampShift - 1))
	if super.floor == unknownFloor {
		changed = 0
	}
	switch kind, sample, _ := strings.Cut(name, "-"); kind {
	case "super":
		var s superblock
		err = s.decode(append(b, make([]byte, superBytes-len(b))...))
		got, want = s, super
	case "record":
		var r record
		err = errors.Join(r.decode(b), r.checkTable(b))
		for n := range r.crcs() {
			if c := le.Uint32(b[recHeader+4*n:]); c != sampleCRC(n) {
				err = errors.Join(err, fmt.Errorf("checksum %d is %x", n, c))
			}
		}
		got, want = r, sampleRecords[sample]
	case "sessions":
		got, err = DecodeSessions(b)
		want = sampleSessions()
	case "page":
		var p page
		copy(p[:], b)
		e := p.entry(3)
		got = []any{p.valid(mapPages, 2), p.ckpt(), p.applied(), e.phys(), e.present(), e.crc(5), p.changed(e)}
		want = []any{true, uint64(9), uint64(12_520), uint32(8), uint16(1 << 5), uint32(0xdeadbeef), changed}
	}
	if err == nil && !reflect.DeepEqual(got, want) {
		err = fmt.Errorf("it decodes as %+v, not %+v", got, want)
	}
	return err
}

// undump is the inverse of hex.Dump.
func undump(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var b []byte
	for line := range strings.Lines(string(text)) {
		digits, _, _ := strings.Cut(line[10:], "|")
		part, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
		if err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	return b, nil
}

func TestFormatRoundTrip(t *testing.T) {
	b := make([]byte, superBytes)
	sampleSuper.encode(b)
	var super superblock
	if err := super.decode(b); err != nil || super != sampleSuper {
		t.Errorf("superblock: %v %+v", err, super)
	}
	for _, want := range sampleRecords {
		b := make([]byte, want.headerBytes())
		want.encode(b)
		var got record
		if err := errors.Join(got.decode(b), got.checkTable(b)); err != nil || got != want {
			t.Errorf("record: %v %+v", err, got)
		}
		b[len(b)-1] ^= 1
		if got.checkTable(b) == nil {
			t.Errorf("a damaged record of kind %d passes", want.kind)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	b := make([]byte, superBytes)
	sampleSuper.encode(b)
	f.Add(b[12:120])
	f.Fuzz(func(t *testing.T, fields []byte) {
		b := make([]byte, superBytes)
		copy(b, superMagic[:])
		copy(b[12:], fields)
		le.PutUint32(b[8:], checksum(b[12:])) // else the checksum turns all of them away
		var s superblock
		if s.decode(b) != nil {
			return
		}
		again := make([]byte, superBytes)
		s.encode(again)
		var s2 superblock
		if err := s2.decode(again); err != nil || s2 != s {
			t.Fatalf("%+v decodes as %+v, %v", s, s2, err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	for name, b := range sampleBytes() {
		if strings.HasPrefix(name, "record") {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if r.decode(b) != nil {
			return
		}
		if n := r.headerBytes(); n <= len(b) {
			le.PutUint32(b[4:], checksum(b[8:n])) // else the checksum turns all of them away
		}
		if n := r.bytes(); n < recHeader || n > recHeader+originBytes+recMaxBlocks*(BlockSize+4)+4*65536 {
			t.Fatalf("a record of %d bytes: %+v", n, r)
		}
		if r.checkTable(b) != nil {
			return
		}
		again := bytes.Clone(b[:r.headerBytes()])
		r.encode(again)
		if !bytes.Equal(again[:72], b[:72]) {
			t.Fatalf("%+v encodes differently", r)
		}
	})
}

func FuzzSessions(f *testing.F) {
	f.Add(sampleSessions().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSessions(b)
		if err != nil || len(b) == 0 {
			return
		}
		if again := s.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x is encoded as %x", b, again)
		}
		for _, x := range s.list {
			o := Origin{Client: x.client, Session: x.number, Op: x.top + 1}
			s.Add(o, x.last+1, 0)
			if p, _ := s.Find(o); p != OpDone && o.Op > 0 {
				t.Fatalf("operation %d was added, and is %d", o.Op, p)
			}
		}
	})
}

// FuzzStoreFiles lays arbitrary bytes over a store's files, of a store that has
// content, and opens it, as a replica too: an error, or a store whose every block
// and entry can be asked for.
func FuzzStoreFiles(f *testing.F) {
	for i, b := range []string{"super", "log", "map", "alloc", "image"} {
		f.Add(uint8(i), uint16(1), []byte(b))
	}
	for _, b := range sampleBytes() {
		f.Add(uint8(1), uint16(4096), b)
		f.Add(uint8(2), uint16(0), b)
	}
	f.Fuzz(func(t *testing.T, file uint8, off uint16, junk []byte) {
		fs := crashfs.New()
		o := StoreOptions{FS: fs, Dir: "/v", Volume: "v", LogBytes: MinLog, Manual: true}
		if err := CreateStore(o, 4<<20); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStore(o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(4) {
			WriteAt(s, make([]byte, 3*BlockSize), i*70_000, 0)
			WriteAt(s, make([]byte, chunkBytes), 1<<20+i*chunkBytes, 0)
			if i == 1 {
				s.Destage()
			}
		}
		fs.Kill()
		name := "/v/" + []string{superFile, logFile, mapFile, allocFile, imageFile}[file%5]
		h, err := fs.Open(name, 2)
		if err != nil {
			t.Fatal(err)
		}
		if size, _ := h.Size(); int64(off)+int64(len(junk)) > size && file%5 < 2 {
			return
		}
		if _, err := h.WriteAt(junk, int64(off)); err != nil {
			t.Fatal(err)
		}
		o.Replica = file >= 128
		if s, err = OpenStore(o); err != nil {
			return
		}
		_, last := s.Last()
		for after := Seq(0); o.Replica && after < last; after++ {
			s.ReadLog(after, 1)
		}
		buf := make([]byte, chunkBytes)
		for at := int64(0); at < s.Size(); at += chunkBytes {
			ReadAt(s, buf[:min(chunkBytes, s.Size()-at)], at)
		}
		s.Destage()
		s.Close()
	})
}
