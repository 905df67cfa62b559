"""Encrypted files: how the content of a snapshot lies on disk when a KMS key protects it.

A sealed file holds the blocks of a (sparse) plain file that are not zero, in pieces, each encrypted
and authenticated by itself with AES-256-GCM, so that a file of any size takes the memory of a few
pieces::

    magic (8)  salt (32)
    offset (8)  length (4)  ciphertext (length)  tag (16)      for each piece, in order
    size (8)    0 (4)       tag (16)                           the end

The key of a file is derived (HKDF-SHA-256) from the data key, its salt and its name, so no two
files, nor two generations of one, share a key, and a nonce is simply the number of the piece.
Number, offset, length and name are associated data. A piece that was changed, moved, repeated, left
out or taken from another file is therefore found, and so is an end that was cut off.

What was read before an error is found is in the target already: use it only after `unseal` is done.
All functions here block; callers run them in a thread.
"""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from microvmd.node.sparse import BLOCK, blocks

MAGIC = b"MVMSEAL1"
SALT_BYTES = 32
KEY_BYTES = 32
TAG_BYTES = 16
PIECE = 4 * BLOCK
"""Bytes of plain content in the largest piece: 256 KiB, which AES takes a fraction of 1 ms for."""
RECORD = struct.Struct("<QI")
LARGEST = 1 << 62
BUFFER = 1 << 20

Key = bytes | bytearray


class SealBroken(Exception):
    """A sealed file is not what was written: cut short, changed, or not for this key and name."""


class SealAbandoned(Exception):
    """The caller gave up meanwhile."""


def _never() -> bool:
    return False


def seal(
    source: Path, target: Path, key: Key, name: str, *, given_up: Callable[[], bool] = _never
) -> None:
    """Encrypt `source` into the new file `target` and sync it. `name` must be told to `unseal`."""
    salt = os.urandom(SALT_BYTES)
    cipher = _Cipher(key, salt, name)
    with source.open("rb", buffering=0) as plain, target.open("xb", buffering=BUFFER) as sealed:
        os.fchmod(sealed.fileno(), 0o600)
        sealed.write(MAGIC + salt)
        for offset, piece in _pieces(plain.fileno()):
            if given_up():
                raise SealAbandoned
            sealed.write(cipher.encrypt(offset, piece))
        sealed.write(cipher.encrypt(os.fstat(plain.fileno()).st_size, b""))
        sealed.flush()
        os.fsync(sealed.fileno())


def unseal(
    source: Path, target: Path, key: Key, name: str, *, given_up: Callable[[], bool] = _never
) -> None:
    """Decrypt `source` into the new file `target`, with holes for zeros.

    Raises SealBroken; what `target` holds then must not be used.
    """
    with source.open("rb", buffering=BUFFER) as sealed, target.open("xb", buffering=0) as plain:
        os.fchmod(plain.fileno(), 0o600)
        header = sealed.read(len(MAGIC) + SALT_BYTES)
        if len(header) < len(MAGIC) + SALT_BYTES or not header.startswith(MAGIC):
            raise SealBroken(f"{name} is no sealed file")
        cipher = _Cipher(key, header[len(MAGIC) :], name)
        for offset, piece in _unsealed(sealed, cipher, name):
            if given_up():
                raise SealAbandoned
            if piece:
                _write_all(plain.fileno(), piece, offset)
            else:
                os.ftruncate(plain.fileno(), offset)
        # The plain form is what is used from now on: it need not lie in memory twice.
        os.posix_fadvise(sealed.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _unsealed(sealed: BinaryIO, cipher: "_Cipher", name: str) -> Iterator[tuple[int, bytes]]:
    """All pieces in order; the last one is empty and its offset is the size of the plain file."""
    free_from = 0
    while True:
        record = sealed.read(RECORD.size)
        if len(record) < RECORD.size:
            raise SealBroken(f"{name} is cut short")
        offset, length = RECORD.unpack(record)
        if length > PIECE or offset > LARGEST:
            raise SealBroken(f"{name} was changed")
        content = cipher.decrypt(record, sealed.read(length + TAG_BYTES))
        # Only whoever has the key can have written the rest, but a sparse write must stay in order.
        if offset < free_from:
            raise SealBroken(f"{name} has pieces that overlap")
        yield offset, content
        if not length:
            break
        free_from = offset + length
    if sealed.read(1):
        raise SealBroken(f"{name} goes on after its end")


def _pieces(fd: int) -> Iterator[tuple[int, bytes]]:
    """Blocks with data, put together to at most PIECE bytes."""
    start, gathered = 0, bytearray()
    for offset, block in blocks(fd):
        if gathered and (offset != start + len(gathered) or len(gathered) + len(block) > PIECE):
            yield start, bytes(gathered)
            gathered.clear()
        if not gathered:
            start = offset
        gathered += block
    if gathered:
        yield start, bytes(gathered)


class _Cipher:
    """The key of one file, and the number of the next piece."""

    def __init__(self, key: Key, salt: bytes, name: str) -> None:
        info = b"microvmd sealed file\0" + name.encode()
        derived = HKDF(SHA256(), KEY_BYTES, salt, info).derive(key)
        self._aead = AESGCM(derived)
        self._name = name
        self._number = 0

    def encrypt(self, offset: int, piece: bytes) -> bytes:
        record = RECORD.pack(offset, len(piece))
        return record + self._aead.encrypt(self._nonce(), piece, self._bound(record))

    def decrypt(self, record: bytes, content: bytes) -> bytes:
        try:
            plain = self._aead.decrypt(self._nonce(), content, self._bound(record))
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"{self._name} was changed, or is not of this key") from error
        return plain

    def _bound(self, record: bytes) -> bytes:
        """Associated data; moves on to the next piece."""
        self._number += 1
        return self._number.to_bytes(8, "little") + record + self._name.encode()

    def _nonce(self) -> bytes:
        return self._number.to_bytes(12, "big")


def _write_all(fd: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
