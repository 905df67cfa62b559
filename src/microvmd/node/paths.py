"""What lives where under the node's root directory.

Anything half-written lives under ``tmp`` and is renamed into place after fsync; a suspend snapshot
counts from its manifest on, which is written last.
"""

import os
import shutil
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from microvmd.messages.node import VersionKey
from microvmd.node.snapshot import MANIFEST, ImageFiles, SuspendFiles

LONGEST_ROOT = 42
"""Bytes of the root's path: a socket below `microvms/<id>/` must fit into 107 (unix(7))."""


@dataclass(frozen=True, slots=True)
class MicrovmFiles:
    """Files of one MicroVM; sockets and logs of its VMM lie beside them (``MachineFiles``)."""

    directory: Path

    @property
    def suspend(self) -> SuspendFiles:
        return SuspendFiles(self.directory)

    @property
    def suspended(self) -> bool:
        """A suspend snapshot counts (``node/snapshot.py``)."""
        return (self.directory / MANIFEST).exists()

    @property
    def identity(self) -> Path:
        """Which VMM, network and jail belong to this MicroVM, for the next run of the node."""
        return self.directory / "vmm.json"

    @property
    def attempts(self) -> Path:
        """How often its start has begun, where that is more than once."""
        return self.directory / "attempts"

    @property
    def attempt(self) -> int:
        """The start that was begun last; 0 when none was."""
        if not self.directory.exists():
            return 0
        return int(self.attempts.read_text() or 1) if self.attempts.exists() else 1


@dataclass(frozen=True, slots=True)
class NodePaths:
    """The node's directories."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def microvms(self) -> Path:
        return self.root / "microvms"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def delivery(self) -> Path:
        """How far logs have been delivered."""
        return self.root / "delivery"

    @property
    def known_files(self) -> Path:
        """Digests of files that were read in full since the machine was booted."""
        return self.root / "known-files.json"

    def image(self, version: VersionKey) -> ImageFiles:
        return ImageFiles(self.images / version.account / version.image_name / version.place)

    def snapshots(self, version: VersionKey) -> list[VersionKey]:
        """Those of all builds of this version that are here."""
        account, name = version.account, version.image_name
        found = (self.images / account / name).glob("*")
        keys = (VersionKey.at(account, name, path.name) for path in found)
        return sorted((key for key in keys if key.is_of(version)), key=str)

    def microvm(self, microvm_id: str) -> MicrovmFiles:
        return MicrovmFiles(self.microvms / microvm_id)

    def make(self) -> None:
        """All of them, readable by root only: snapshots hold the memory of applications, logs what
        they print."""
        for path in (self.root, self.images, self.microvms, self.tmp, self.logs, self.delivery):
            path.mkdir(parents=True, exist_ok=True)
        for path in (self.images, self.microvms, self.tmp, self.logs, self.delivery):
            path.chmod(0o700)

    def sweep(self, microvms: Set[str], versions: Set[VersionKey]) -> list[Path]:
        """Remove what no record owns; returns what was removed. Before anything runs."""
        doomed = list(self.tmp.iterdir())
        doomed += [path for path in self.microvms.iterdir() if path.name not in microvms]
        owned = {self.image(version).directory for version in versions}
        doomed += [path for path in self.images.glob("*/*/*") if path not in owned]
        for path in doomed:
            remove(path)
        return doomed


def remove(path: Path) -> None:
    """A file or a whole directory; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """The same bytes under another name: a hard link where the file systems allow it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
