"""The files of a zip, wheel or tar, in memory and within limits; nothing is ever written to a disk.

What would hurt who unpacks it for real is refused and told: paths that lead out, links, devices,
encrypted entries, and bombs.
"""

import io
import tarfile
import zipfile
import zlib
from pathlib import PurePosixPath

MOST_FILES = 20_000
MOST_BYTES = 256 << 20
LARGEST_FILE = 4 << 20
MOST_REFUSALS = 100
DEPTH = 2
ARCHIVES = (".zip", ".whl", ".egg", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Enough(Exception):
    """A limit of the whole archive: the rest is not looked at."""


class Unpacked:
    """`files()` goes through it once; `refused` then has the reasons for what was left out."""

    def __init__(self, archive):
        self.refused = []
        self._archive = archive
        self._files = 0
        self._bytes = 0

    def files(self):
        try:
            yield from self._open("", self._archive, DEPTH)
        except Enough as limit:
            self._refuse(str(limit))

    def _open(self, prefix, content, depth):
        file = io.BytesIO(content)
        try:
            if zipfile.is_zipfile(file):
                entries = self._zip(file)
            else:
                file.seek(0)
                entries = self._tar(file)
            for name, read in entries:
                yield from self._entry(prefix + name, read, depth)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            self._refuse(f"{prefix or 'the archive'} cannot be read: {error}")

    def _zip(self, file):
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                kind = entry.external_attr >> 28
                if entry.is_dir():
                    continue
                if entry.flag_bits & 1:
                    self._refuse(f"{entry.filename}: encrypted")
                elif kind not in (0, 0o10):
                    self._refuse(f"{entry.filename}: a link or device")
                else:
                    yield entry.filename, lambda entry=entry: archive.open(entry)

    def _tar(self, file):
        # A stream (`r|`) is unpacked piece by piece: its listing is no bomb either.
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for entry in archive:
                if entry.isfile():
                    yield entry.name, lambda entry=entry: archive.extractfile(entry)
                elif not entry.isdir():
                    self._refuse(f"{entry.name}: a link or device")

    def _entry(self, name, read, depth):
        self._files += 1
        if self._files > MOST_FILES:
            raise Enough(f"more than {MOST_FILES} files")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            self._refuse(f"{name}: leads out of the archive")
        with read() as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            self._refuse(f"{name}: more than {LARGEST_FILE} bytes, of which the begin was read")
        self._bytes += len(content)
        if self._bytes > MOST_BYTES:
            raise Enough(f"more than {MOST_BYTES} bytes unpacked")
        yield name, content
        if depth and name.lower().endswith(ARCHIVES):
            yield from self._open(f"{name}!", content, depth - 1)

    def _refuse(self, why):
        if len(self.refused) < MOST_REFUSALS:
            self.refused.append(why[:300])
