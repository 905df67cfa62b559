"""Judges an uploaded zip before anything is unpacked.

The zip comes from a stranger. This module reads only its directory, the fixed part of each local
header and the Dockerfile; it writes nothing. The same checks run where the zip is unpacked (see
``inside.py``), with the same parser, so that both see the same entries.
"""

import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from microvmd.build.failure import BuildFailed

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DEPTH_LIMIT = 256
_RATIO_FREE_BYTES = 64 << 20  # below this total the compression ratio is nobody's problem


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What a code artifact may hold. Bytes are uncompressed unless said otherwise."""

    archive_bytes: int = 1 << 30
    total_bytes: int = 4 << 30
    entries: int = 100_000
    ratio: int = 200
    directory_bytes: int = 16 << 20
    dockerfile_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip that passed."""

    path: Path
    size: int
    entries: int
    total_bytes: int
    dockerfile: str


def inspect(path: Path, limits: ArchiveLimits) -> Archive:
    """Check the zip at ``path``; blocking. Raises BuildFailed naming the entry at fault."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            _bound_directory(file, size, limits)
            with zipfile.ZipFile(file) as archive:
                return _inspect(archive, file, path, size, limits)
        except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError) as error:
            raise _invalid(f"The archive is not a readable zip file ({error}).") from error
        except (EOFError, OverflowError, OSError) as error:
            raise _invalid("The archive is not a readable zip file.") from error


def _inspect(
    archive: zipfile.ZipFile, file: BinaryIO, path: Path, size: int, limits: ArchiveLimits
) -> Archive:
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise _invalid(f"The archive has {len(entries)} entries, more than {limits.entries}.")
    total = _check_entries(entries, limits)
    compressed = sum(entry.compress_size for entry in entries)
    if total > _RATIO_FREE_BYTES and total > limits.ratio * max(compressed, 1):
        largest = max(entries, key=lambda entry: entry.file_size)
        raise _invalid(
            f"The archive expands more than {limits.ratio} times; "
            f"its largest entry is {_shown(largest.filename)}."
        )
    _check_places(entries, file, size)
    return Archive(path, size, len(entries), total, _dockerfile(archive, limits))


def _bound_directory(file: BinaryIO, size: int, limits: ArchiveLimits) -> None:
    """Refuse a huge directory before ``zipfile`` reads it whole into memory.

    Follows the search order of ``zipfile``, so that both look at the same record.
    """
    if size > limits.archive_bytes:
        raise _invalid(f"The archive is larger than {limits.archive_bytes} bytes.")
    start = max(0, size - (1 << 16) - _END.size)
    file.seek(start)
    tail = file.read()
    at = len(tail) - _END.size
    if at < 0 or not (tail[at : at + 4] == b"PK\x05\x06" and tail[-2:] == b"\0\0"):
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END.size > len(tail):
            raise _invalid("The archive is not a zip file.")
    directory_bytes = _END.unpack_from(tail, at)[5]
    end64 = start + at - _END64_LOCATOR.size - _END64.size
    if end64 >= 0:
        file.seek(end64)
        record = file.read(_END64.size + _END64_LOCATOR.size)
        if record[_END64.size :].startswith(b"PK\x06\x07") and record.startswith(b"PK\x06\x06"):
            directory_bytes = _END64.unpack_from(record)[8]
    if directory_bytes > limits.directory_bytes:
        raise _invalid(
            f"The directory of the archive is larger than {limits.directory_bytes} bytes."
        )
    file.seek(0)


def _check_entries(entries: list[zipfile.ZipInfo], limits: ArchiveLimits) -> int:
    seen: dict[str, bool] = {}
    total = 0
    for entry in entries:
        name = _check_name(entry)
        _check_kind(entry)
        if name in seen:
            raise _invalid(f"Entry {_shown(entry.filename)} appears twice.")
        seen[name] = entry.is_dir()
        total += entry.file_size
        if total > limits.total_bytes:
            raise _invalid(
                f"The archive expands to more than {limits.total_bytes} bytes "
                f"at entry {_shown(entry.filename)}."
            )
    _check_parents(seen)
    return total


def _check_name(entry: zipfile.ZipInfo) -> str:
    """Return the path without a trailing slash."""
    name = entry.filename
    shown = _shown(name)
    if entry.orig_filename != name or any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise _invalid(f"Entry {shown} has a control character in its name.")
    if "\\" in name:
        raise _invalid(f"Entry {shown} has a backslash in its name; use forward slashes.")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":" and name[0].isalpha()):
        raise _invalid(f"Entry {shown} has an absolute path.")
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise _invalid(f"Entry {shown} has an empty, '.' or '..' part in its path.")
    if len(parts) > _DEPTH_LIMIT:
        raise _invalid(f"Entry {shown} lies more than {_DEPTH_LIMIT} folders deep.")
    encoded = [os.fsencode(part) for part in parts] if _encodable(name) else None
    if encoded is None or max(map(len, encoded)) > 255 or sum(map(len, encoded)) > 3072:
        raise _invalid(f"Entry {shown} has a name that is too long or not valid Unicode.")
    return "/".join(parts)


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_kind(entry: zipfile.ZipInfo) -> None:
    shown = _shown(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise _invalid(f"Entry {shown} is a symbolic link; pack the file it points to.")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _invalid(f"Entry {shown} is neither a file nor a folder.")
    if kind and (kind == stat.S_IFDIR) != entry.is_dir():
        raise _invalid(f"Entry {shown} is a file and a folder at once.")
    if entry.is_dir() and entry.file_size:
        raise _invalid(f"Entry {shown} is a folder with content.")
    if entry.flag_bits & 0x41:
        raise _invalid(f"Entry {shown} is encrypted.")
    if entry.compress_type not in _COMPRESSIONS:
        raise _invalid(f"Entry {shown} uses a compression other than deflate.")
    if entry.volume:
        raise _invalid(f"Entry {shown} is in another volume of a split archive.")


def _check_parents(seen: dict[str, bool]) -> None:
    """In the order of paths all that lies below a file follows right after it.

    To look for each parent of each name would be seconds of work for names of many parts.
    """
    file = ""
    for path in sorted(f"{name}/" for name in seen):
        if file and path.startswith(file):
            raise _invalid(f"Entry {_shown(path[:-1])} lies below a file.")
        file = "" if seen[path[:-1]] else path


def _check_places(entries: list[zipfile.ZipInfo], file: BinaryIO, size: int) -> None:
    """No two entries may share bytes: that is how a small zip expands without end."""
    free_from, previous = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        shown = _shown(entry.filename)
        if entry.header_offset < free_from:
            raise _invalid(f"Entry {shown} overlaps entry {previous}.")
        file.seek(entry.header_offset)
        header = file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise _invalid(f"Entry {shown} has no local header.")
        fields = _LOCAL.unpack(header)
        if (fields[2] ^ entry.flag_bits) & 1 or fields[3] != entry.compress_type:
            raise _invalid(f"Entry {shown} has a local header that contradicts the directory.")
        free_from = entry.header_offset + _LOCAL.size + fields[9] + fields[10] + entry.compress_size
        previous = shown
        if free_from > size:
            raise _invalid(f"Entry {shown} ends beyond the archive.")


def _dockerfile(archive: zipfile.ZipFile, limits: ArchiveLimits) -> str:
    try:
        entry = archive.getinfo("Dockerfile")
    except KeyError:
        raise BuildFailed(
            "ARCHIVE_DOCKERFILE_NOT_FOUND", "The archive has no Dockerfile at its root."
        ) from None
    if entry.file_size > limits.dockerfile_bytes:
        raise _invalid(f"The Dockerfile is larger than {limits.dockerfile_bytes} bytes.")
    try:
        with archive.open(entry) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid("The Dockerfile is not UTF-8 text.") from error
    except (zlib.error, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise _invalid(f"The Dockerfile cannot be read ({error}).") from error


def _shown(name: str) -> str:
    """Quote an entry's name so that it can stand in a log: one line, ASCII, bounded."""
    text = ascii(name[:200])
    return text if len(name) <= 200 else f"{text}..."


def _invalid(sentence: str) -> BuildFailed:
    return BuildFailed("ARCHIVE_INVALID", sentence)
