"""Disks of a MicroVM: the image's writable disk, and what each MicroVM has of it.

An image build writes to a sparse ext4 file. After the image snapshot that file never changes, and
every MicroVM gets an empty qcow2 overlay on it. We write the overlay's header ourselves: it is a
few numbers, takes 0.1 ms where `qemu-img create` takes 6, and needs no process. Under a VMM that
knows raw disks only it gets a copy, which shares blocks with the image's where the file system can
(reflink), and else holds what is allocated there.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path

from microvmd.node.sparse import extents
from microvmd.vmm.machine import DiskFormat, Drive
from microvmd.vmm.process import run

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
# qemu/docs/interop/qcow2.txt, version 3
HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
MAGIC = b"QFI\xfb"
EXTENSION = struct.Struct(">II")
BACKING_FORMAT = 0xE2792ACA
REFCOUNT_TABLE, REFCOUNT_BLOCK, L1_TABLE = CLUSTER, 2 * CLUSTER, 3 * CLUSTER
REFCOUNT_ORDER = 4
"""Reference counts of 16 bits."""
L1_COVERS = CLUSTER * (CLUSTER // 8)
"""Bytes of disk behind one L1 entry: 512 MiB."""
LARGEST = L1_COVERS * (CLUSTER // 8)
"""An L1 table of one cluster: 4 TiB."""
MAKE_LIMIT = 120.0
FICLONE = 0x40049409
"""linux/fs.h: make a file share all blocks of another."""
NO_REFLINK = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY)


async def create_disk(path: Path, size: int) -> None:
    """A sparse raw file of `size` bytes with an empty ext4 on it. Raises ProcessFailed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    # No reserved blocks: nobody but the one application uses it. A new sparse file reads as zeros,
    # so `discard` lets mkfs mark inode tables and journal as set up without writing them: no
    # kernel thread does it later and dirties the memory of every clone.
    options = "discard,lazy_itable_init=0,lazy_journal_init=1"
    await run(
        ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, os.fspath(path)], timeout=MAKE_LIMIT
    )


def create_clone(disk_format: DiskFormat, path: Path, image: Path) -> None:
    """A MicroVM's own disk, as the image's is now. Blocks, as long as a copy takes."""
    if disk_format is DiskFormat.OVERLAY:
        create_overlay(path, image)
    else:
        create_copy(path, image)


def clone_drive(disk_format: DiskFormat, path: Path, image: Path) -> Drive:
    """What `create_clone` made, as a machine has it."""
    return Drive("disk", path, backing=image if disk_format is DiskFormat.OVERLAY else None)


def create_copy(path: Path, source: Path) -> None:
    """A sparse copy of a raw file."""
    with source.open("rb") as original, path.open("xb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        try:
            fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
        except OSError as error:
            if error.errno not in NO_REFLINK:
                raise
            _copy_data(original.fileno(), copy.fileno())


def _copy_data(source: int, target: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for begin, end in extents(source, size):
        os.lseek(target, begin, os.SEEK_SET)
        while begin < end:
            # Unlike copy_file_range(2) also between file systems of two kinds.
            count = os.sendfile(target, source, begin, end - begin)
            if not count:
                raise OSError(errno.EIO, "the image's disk was cut short")
            begin += count


def create_overlay(path: Path, backing: Path) -> None:
    """An empty qcow2 overlay over the raw file `backing`, of the same size."""
    header = overlay_header(os.fsencode(backing), backing.stat().st_size)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, header, 0)
        os.pwrite(fd, struct.pack(">Q", REFCOUNT_BLOCK), REFCOUNT_TABLE)
        os.pwrite(fd, struct.pack(">4H", 1, 1, 1, 1), REFCOUNT_BLOCK)
        os.ftruncate(fd, L1_TABLE + CLUSTER)
    finally:
        os.close(fd)


def overlay_header(backing: bytes, size: int) -> bytes:
    """First cluster of an overlay. QEMU is told the backing file again when it opens it."""
    if not 0 < size <= LARGEST or size % 512:
        raise ValueError(f"a disk of {size} bytes cannot have an overlay")
    extension = EXTENSION.pack(BACKING_FORMAT, 3) + b"raw".ljust(8, b"\0") + EXTENSION.pack(0, 0)
    name_offset = HEADER.size + len(extension)
    if not 0 < len(backing) <= 1023:
        raise ValueError("the path of the backing file is too long")
    header = HEADER.pack(
        MAGIC,
        3,
        name_offset,
        len(backing),
        CLUSTER_BITS,
        size,
        0,  # not encrypted
        -(-size // L1_COVERS),
        L1_TABLE,
        REFCOUNT_TABLE,
        1,
        0,  # no internal snapshots
        0,
        0,  # incompatible, compatible and autoclear features
        0,
        0,
        REFCOUNT_ORDER,
        HEADER.size,
    )
    return header + extension + backing
