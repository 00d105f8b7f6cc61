// Command iogap writes 4 KiB blocks to a device or file one after the other, O_DIRECT and O_DSYNC, and reports how long writes
// stalled and which failed. At the end it reads everything back: each acknowledged write must be there.
//
//	iogap [-t 10s] [-pause 10ms] [-gap 500ms] [-blocks 1024] [-keep-going] FILE
//
// Every block holds its number and a running count; a block whose write failed may hold the old or the new count.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const bs = 4096

func aligned() []byte {
	b := make([]byte, 2*bs)
	o := bs - int(uintptr(unsafe.Pointer(&b[0]))&(bs-1))
	return b[o : o+bs]
}

func main() {
	d := flag.Duration("t", 10*time.Second, "how long to write")
	pause := flag.Duration("pause", 10*time.Millisecond, "pause between two writes")
	gap := flag.Duration("gap", 500*time.Millisecond, "report writes slower than this")
	blocks := flag.Int("blocks", 1024, "blocks used, round robin")
	verify := flag.Bool("verify", true, "read back at the end")
	keep := flag.Bool("keep-going", true, "go on after a failed write")
	flag.Parse()
	fd, err := syscall.Open(flag.Arg(0), syscall.O_RDWR|syscall.O_DIRECT|syscall.O_DSYNC|syscall.O_CREAT, 0o644)
	if err != nil {
		fmt.Println("iogap: open:", err)
		os.Exit(1)
	}
	buf := aligned()
	acked := make([]uint64, *blocks)
	tried := make([]uint64, *blocks)
	var n, errs int
	var longest time.Duration
	start := time.Now()
	for time.Since(start) < *d {
		i := n % *blocks
		n++
		for j := 0; j < bs; j += 16 {
			binary.LittleEndian.PutUint64(buf[j:], uint64(i))
			binary.LittleEndian.PutUint64(buf[j+8:], uint64(n))
		}
		tried[i] = uint64(n)
		t := time.Now()
		_, err := syscall.Pwrite(fd, buf, int64(i)*bs)
		el := time.Since(t)
		if el > longest {
			longest = el
		}
		if err != nil {
			errs++
			if errs <= 3 {
				fmt.Printf("iogap: %6d ms: write %d: %v after %d ms\n", time.Since(start).Milliseconds(), n, err, el.Milliseconds())
			}
			if !*keep {
				break
			}
		} else {
			acked[i] = uint64(n)
			if el > *gap {
				fmt.Printf("iogap: %6d ms: write %d was acknowledged after %d ms\n", time.Since(start).Milliseconds(), n, el.Milliseconds())
			}
		}
		time.Sleep(*pause)
	}
	fmt.Printf("iogap: %d writes, %d failed, longest %d ms\n", n, errs, longest.Milliseconds())
	if *verify {
		lost, bad := 0, 0
		for i := range acked {
			if tried[i] == 0 {
				continue
			}
			if n, err := syscall.Pread(fd, buf, int64(i)*bs); err != nil || n != bs {
				fmt.Println("iogap: read back:", n, err)
				os.Exit(1)
			}
			got := binary.LittleEndian.Uint64(buf[8:])
			for j := 0; j < bs; j += 16 {
				if binary.LittleEndian.Uint64(buf[j+8:]) != got {
					bad++ // torn block
					break
				}
			}
			if got < acked[i] || got > tried[i] {
				lost++
			}
		}
		fmt.Printf("iogap: read back: %d acknowledged writes lost, %d torn blocks\n", lost, bad)
		if lost > 0 || bad > 0 {
			os.Exit(3)
		}
	}
	if errs > 0 {
		os.Exit(2)
	}
}
