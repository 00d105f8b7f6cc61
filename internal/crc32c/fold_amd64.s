#include "textflag.h"

// FOLD adds acc, carried over the distance of the keys in Z5, to data, and leaves
// the sum in acc. The low halves of each 16 bytes are multiplied by the low keys,
// the high by the high; 0x96 is the exclusive or of three.
#define FOLD(data, acc, product) \
	VPCLMULQDQ $0x00, Z5, acc, product \
	VPCLMULQDQ $0x11, Z5, acc, acc     \
	VPTERNLOGQ $0x96, data, product, acc

// func fold(crc uint32, p []byte, keys *foldKeyTable) uint32
TEXT ·fold(SB), NOSPLIT, $0-44
	MOVL crc+0(FP), AX
	MOVQ p_base+8(FP), SI
	MOVQ p_len+16(FP), CX
	MOVQ keys+32(FP), DX

	// Four registers side by side hide the latency of the multiplication. The
	// remainder so far is added to the first four bytes.
	VMOVD     AX, X4
	VPXORQ    0(SI), Z4, Z0
	VMOVDQU64 64(SI), Z1
	VMOVDQU64 128(SI), Z2
	VMOVDQU64 192(SI), Z3
	VMOVDQU64 0(DX), Z5      // foldKeyTable.step
	JMP       next

loop:
	ADDQ $256, SI
	FOLD(0(SI), Z0, Z6)
	FOLD(64(SI), Z1, Z7)
	FOLD(128(SI), Z2, Z8)
	FOLD(192(SI), Z3, Z9)

next:
	SUBQ $256, CX
	JNZ  loop

	// Four registers to one.
	VMOVDQU64 64(DX), Z5 // foldKeyTable.next
	FOLD(Z1, Z0, Z6)
	FOLD(Z2, Z0, Z6)
	FOLD(Z3, Z0, Z6)

	// Its four lanes to one. The last stays as it is; its keys are zeros.
	VEXTRACTI32X4 $3, Z0, X1
	VMOVDQU64     128(DX), Z5 // foldKeyTable.lanes
	FOLD(Z1, Z0, Z6)
	VEXTRACTI64X4 $1, Z0, Y1
	VPXOR         Y1, Y0, Y0
	VEXTRACTI128  $1, Y0, X1
	VPXOR         X1, X0, X0

	// The CRC instruction takes the remainder of the last 16 bytes.
	VMOVQ   X0, BX
	VPEXTRQ $1, X0, CX
	VZEROUPPER
	XORL    AX, AX
	CRC32Q  BX, AX
	CRC32Q  CX, AX
	MOVL    AX, ret+40(FP)
	RET
