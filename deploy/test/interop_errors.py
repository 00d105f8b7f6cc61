# Run by nbdsh, which connects h: what a server owes to a client that is precise about
# error numbers, flags and structured replies.
import errno
import nbd

MiB = 1 << 20
size = h.get_size()


def refused(want, what, *args):
    try:
        what(*args)
    except nbd.Error as e:
        assert e.errno == errno.errorcode[want], "%s: got %s (%s), want %s" % (what.__name__, e.errno, e.string, errno.errorcode[want])
        return
    raise AssertionError("%s%r was not refused" % (what.__name__, args))


h.set_strict_mode(0)  # let libnbd send what it knows to be wrong
refused(errno.ENOSPC, h.pwrite, b"x" * 4096, size - 512)
refused(errno.ENOSPC, h.zero, 4096, size)
refused(errno.EINVAL, h.pread, 4096, size - 512)
refused(errno.EINVAL, h.pread, 512, (1 << 63))
refused(errno.EINVAL, h.trim, 4096, size)
refused(errno.EINVAL, h.block_status, 4096, size, lambda *_: 0)
refused(errno.EINVAL, h.pread, 4096, 0, 1 << 14)  # a flag that does not exist
refused(errno.EINVAL, h.flush, nbd.CMD_FLAG_DF)

# After refusals the connection still works, and a refused write wrote nothing.
assert h.pread(512, size - 512) is not None

h.pwrite(b"\xa5" * MiB, 32 * MiB, nbd.CMD_FLAG_FUA)
h.trim(256 * 1024, 32 * MiB + 256 * 1024, nbd.CMD_FLAG_FUA)
h.zero(4096, 32 * MiB, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
h.cache(MiB, 32 * MiB)
want = bytearray(b"\xa5" * MiB)
want[256 * 1024 : 512 * 1024] = bytes(256 * 1024)
want[0:4096] = bytes(4096)
assert h.pread(MiB, 32 * MiB) == want

# Structured read: every byte comes once, in data and hole chunks.
seen = bytearray(MiB)
kinds = set()


def chunk(buf, offset, status, error):
    assert offset >= 32 * MiB and offset + len(buf) <= 33 * MiB
    kinds.add(status)
    for i in range(offset - 32 * MiB, offset - 32 * MiB + len(buf)):
        seen[i] += 1
    assert status != nbd.READ_HOLE or not any(buf)


assert h.pread_structured(MiB, 32 * MiB, chunk) == want
assert min(seen) == 1 and max(seen) == 1, "bytes came %d to %d times" % (min(seen), max(seen))
assert nbd.READ_DATA in kinds

# With DF the answer is one chunk.
chunks = []
h.pread_structured(64 * 1024, 32 * MiB, lambda b, o, s, e: chunks.append(s), nbd.CMD_FLAG_DF)
assert len(chunks) == 1, "%d chunks in spite of DF" % len(chunks)

# REQ_ONE: one extent, never longer than asked for.
extents = []
h.block_status(MiB, 32 * MiB, lambda ctx, off, e, err: extents.append((ctx, off, e)), nbd.CMD_FLAG_REQ_ONE)
assert len(extents) == 1 and extents[0][0] == "base:allocation"
assert len(extents[0][2]) == 2 and 0 < extents[0][2][0] <= MiB

# The largest payload that the server says it takes.
big = h.get_block_size(nbd.SIZE_MAXIMUM)
assert big == 32 * MiB
block = bytes(range(256)) * (big // 256)
for _ in range(8):  # memory held for one must not be missing for the next
    h.pwrite(block, 64 * MiB)
    assert h.pread(big, 64 * MiB) == block
