"""Snapshots on disk: which files they are, what made them, and when they count.

A snapshot is a directory whose `manifest.json` names its files with sizes and digests. The manifest
is written last, after everything else was synced, and put in place by a rename: no manifest, no
snapshot. An image snapshot is made under `tmp/` and renamed into place as a whole. A suspend
snapshot lies beside the MicroVM's overlay; `retire` removes its manifest before the vCPUs run on,
because the overlay no longer fits the saved memory from then on.

Device state is only understood by what wrote it. The stamp (accelerator, VMM and version, CPU
model, devices, rate of an emulated counter) is compared at every restore.

No VMM gets a file that is not what the manifest says, and no manifest counts whose last line is not
its own digest. `check` reads a file in full once per boot of the machine and remembers it
(``node/known_files.py``); what a build or suspend has just written is known from the start.

With an envelope in its manifest a snapshot is encrypted: its files are sealed ones of the same
names (``node/sealed_file.py``), and ``node/vault.py`` has their plain form.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from microvmd.node.kms import Envelope
from microvmd.node.known_files import KnownFiles
from microvmd.node.sparse import digest
from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    FromImage,
    FromSuspend,
    SuspendMethod,
    SuspendStats,
    Vmm,
)

FORMAT = 2
MANIFEST = "manifest.json"
BOOT_ONLY = ("vmlinux", "initrd")
"""Files of an image that no restore reads: its memory holds what they were."""
REBUILD = "build the image again (UpdateMicrovmImage)"


TSC_PPM = 500
"""Millionths by which the rates of two counters may differ: what NTP corrects at most. Two
measurements of one machine differ by less than a tenth of that, also when it is busy, and those of
machines with different processors by fifty times as much."""
TITLES = {"qemu": "QEMU", "firecracker": "Firecracker"}


class SnapshotKind(StrEnum):
    IMAGE = "image"
    SUSPEND = "suspend"


class SnapshotBroken(Exception):
    """Files are missing, changed or not readable as a snapshot."""


class SnapshotForeign(Exception):
    """The snapshot is whole, but this node cannot restore it: ``difference`` says why."""

    def __init__(self, difference: str, advice: str = "") -> None:
        super().__init__(f"{difference}: {advice}" if advice else difference)
        self.difference = difference


@dataclass(frozen=True, slots=True)
class Stamp:
    """What made a snapshot; only the same can restore it."""

    accelerator: str
    vmm_version: str
    cpu_model: str
    devices: str
    """Digest of the devices that this version of microvmd gives a machine."""
    vmm: str = "qemu"
    """A manifest that is older than Firecracker here names none."""
    tsc_khz: int = field(default=0, compare=False)
    """Rate of the counter that an emulated guest keeps time by, as measured: compare by `in_time`.
    QEMU gives it the node's own (``rdtsc`` there is ``cpu_get_host_ticks``), by the rate that the
    guest was booted with. 0 says nothing: the guest keeps time otherwise, or nobody measured."""

    @classmethod
    def of(cls, accelerator: Accelerator, vmm: Vmm) -> "Stamp":
        kind, model = accelerator.kind.value, vmm.cpu_model(accelerator)
        rate = accelerator.tsc_khz if accelerator.kind is AcceleratorKind.TCG else 0
        return cls(kind, vmm.version, model, vmm.devices, vmm.name.value, rate)

    def in_time(self, other: "Stamp") -> bool:
        """A guest of the one has the right time with the counter of the other."""
        if not self.tsc_khz or not other.tsc_khz:
            return True
        return abs(self.tsc_khz - other.tsc_khz) * 1_000_000 <= TSC_PPM * other.tsc_khz

    def __str__(self) -> str:
        return (
            f"{self.accelerator}, {TITLES.get(self.vmm, self.vmm)} {self.vmm_version}, "
            f"CPU model {self.cpu_model}, devices {self.devices}"
        )


@dataclass(frozen=True, slots=True)
class FileRecord:
    """`allocated` counts what the file takes on disk. `sha256` is `digest` of it, or None for a
    file that is not hashed."""

    size: int
    allocated: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on disk, as the API reports them."""

    memory: int
    code: int
    disk: int


@dataclass(frozen=True, slots=True)
class Manifest:
    kind: SnapshotKind
    stamp: Stamp
    memory_mib: int
    vcpus: int
    method: SuspendMethod | None
    base: str | None
    """Suspend snapshot: digest of the image's memory file, which its diff is against."""
    files: dict[str, FileRecord]
    envelope: Envelope | None = None

    @property
    def sizes(self) -> Sizes:
        def of(*names: str) -> int:
            return sum(self.files[name].allocated for name in names if name in self.files)

        return Sizes(
            memory=of("memory", "memory.diff", "device"),
            code=of("rootfs.erofs"),
            disk=of("disk.raw", "overlay.qcow2"),
        )

    @property
    def stored_bytes(self) -> int:
        """What all of its files take on disk."""
        return sum(file.allocated for file in self.files.values())


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Names in the directory of an image version."""

    directory: Path

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs.erofs"

    @property
    def config(self) -> Path:
        return self.directory / "config.json"

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def memory(self) -> Path:
        return self.directory / "memory"

    @property
    def device(self) -> Path:
        return self.directory / "device"

    @property
    def start(self) -> FromImage:
        return FromImage(self.device)


@dataclass(frozen=True, slots=True)
class SuspendFiles:
    """Names in the directory of a MicroVM."""

    directory: Path

    @property
    def overlay(self) -> Path:
        return self.directory / "overlay.qcow2"

    @property
    def device(self) -> Path:
        return self.directory / "device"

    @property
    def diff(self) -> Path:
        return self.directory / "memory.diff"

    def start(self, manifest: Manifest) -> FromSuspend:
        full = manifest.method is SuspendMethod.FULL
        return FromSuspend(self.device, None if full else self.diff)


async def seal_image(
    directory: Path,
    final: Path,
    *,
    stamp: Stamp,
    memory_mib: int,
    vcpus: int,
    known: KnownFiles,
    envelope: Envelope | None = None,
) -> Manifest:
    """Make the files of a finished image snapshot last, then move the directory to `final`.

    Everything in it becomes read-only: all MicroVMs of the version read these files.
    """

    def work() -> Manifest:
        paths = [path for path in sorted(directory.iterdir()) if _counts(path)]
        for path in paths:
            os.chown(path, 0, 0)
            path.chmod(0o444)
            _sync(path)
        records = {path.name: _record(path, known.take(path, digest)) for path in paths}
        for name in ("memory", "device", "disk.raw", "rootfs.erofs"):
            if name not in records:
                raise SnapshotBroken(f"the image snapshot has no file {name}")
        manifest = Manifest(
            SnapshotKind.IMAGE, stamp, memory_mib, vcpus, None, None, records, envelope
        )
        _write_manifest(directory, manifest)
        final.parent.mkdir(parents=True, exist_ok=True)
        directory.rename(final)
        _sync(final.parent)
        known.save()
        return manifest

    return await asyncio.to_thread(work)


def _counts(path: Path) -> bool:
    return path.name != MANIFEST and path.is_file() and not path.is_symlink()


async def commit_suspend(
    files: SuspendFiles,
    stats: SuspendStats,
    *,
    image: Manifest,
    stamp: Stamp,
    known: KnownFiles,
    envelope: Envelope | None = None,
) -> Manifest:
    """Make a suspend snapshot count. Its files were synced before.

    The overlay is read for its digest, as far as it is allocated. Encrypted files need no digest:
    each piece of them is authenticated.
    """

    def work() -> Manifest:
        plain = envelope is None
        records = {
            path.name: _record(path, known.take(path, digest) if plain else None)
            for path in (files.device, files.overlay)
        }
        if stats.method is SuspendMethod.DIFF:
            records[files.diff.name] = _record(files.diff, stats.diff_sha256 if plain else None)
            if plain and stats.diff_sha256 is not None:
                known.told(files.diff, stats.diff_sha256)
        manifest = Manifest(
            kind=SnapshotKind.SUSPEND,
            stamp=stamp,
            memory_mib=image.memory_mib,
            vcpus=image.vcpus,
            method=stats.method,
            base=image.files["memory"].sha256,
            files=records,
            envelope=envelope,
        )
        _write_manifest(files.directory, manifest)
        known.save()
        return manifest

    return await asyncio.to_thread(work)


def retire(files: SuspendFiles) -> None:
    """Forget a suspend snapshot: call it between the restore and `cont`."""
    for path in (files.directory / MANIFEST, files.device, files.diff):
        path.unlink(missing_ok=True)


def load(directory: Path, *, stamp: Stamp, others: Collection[Stamp] = ()) -> Manifest:
    """Read a snapshot that is about to be restored: quick checks only.

    ``others`` are those of the node's other VMMs. Raises SnapshotBroken, SnapshotForeign.
    """
    manifest = read(directory)
    here = next((one for one in others if one.vmm == manifest.stamp.vmm), stamp)
    if manifest.stamp != here:
        raise _foreign(manifest.stamp, here)
    if not here.in_time(manifest.stamp):
        raise SnapshotForeign(
            f"the snapshot keeps time by a counter of {manifest.stamp.tsc_khz / 1000:.1f} MHz and "
            f"this node's has {here.tsc_khz / 1000:.1f} MHz, so that its clock would be wrong",
            f"{REBUILD}; a MicroVM that was suspended before can only be terminated, or resumed on "
            "such a processor",
        )
    return manifest


def _foreign(made: Stamp, here: Stamp) -> SnapshotForeign:
    if replace(made, devices=here.devices) == here:
        return SnapshotForeign(
            f"the snapshot is of a machine with other devices ({made.devices}) than this version "
            f"of microvmd gives ({here.devices})",
            f"{REBUILD}; a MicroVM that was suspended before can only be terminated, or resumed by "
            "the version that suspended it",
        )
    return SnapshotForeign(f"the snapshot was made under {made}; this node has {here}", REBUILD)


def read(directory: Path) -> Manifest:
    """The manifest, with the sizes of all files checked. Raises SnapshotBroken."""
    try:
        manifest = decode((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise SnapshotBroken(f"no snapshot in {directory}: {error}") from error
    for name, record in manifest.files.items():
        try:
            size = (directory / name).stat().st_size
        except OSError as error:
            raise SnapshotBroken(f"{name} of the snapshot is missing: {error}") from error
        if record.sha256 and size != record.size:
            raise SnapshotBroken(f"{name} has {size} bytes, not {record.size}")
    return manifest


async def verify(directory: Path) -> Manifest:
    """`read`, and compare all digests by reading all files. Raises SnapshotBroken."""

    def work() -> Manifest:
        manifest = read(directory)
        for name, record in manifest.files.items():
            if record.sha256 and _method(name)(directory / name) != record.sha256:
                raise _changed(name)
        return manifest

    return await asyncio.to_thread(work)


def unknown(directory: Path, manifest: Manifest, known: KnownFiles) -> list[str]:
    """Files that a restore reads and that must be read in full before: takes one stat for each.

    Raises SnapshotBroken when one cannot be looked at.
    """
    try:
        return [
            name
            for name, record in manifest.files.items()
            if record.sha256
            and name not in BOOT_ONLY
            and known.find(directory / name) != record.sha256
        ]
    except OSError as error:
        raise SnapshotBroken(f"a file of the snapshot is missing: {error}") from error


def check(
    directory: Path,
    manifest: Manifest,
    names: list[str],
    known: KnownFiles,
    given_up: Callable[[], bool],
) -> None:
    """Read these files in full. Blocks. Raises SnapshotBroken, Abandoned."""
    try:
        for name in names:
            found = known.take(directory / name, _method(name, given_up))
            if found != manifest.files[name].sha256:
                raise _changed(name)
    except OSError as error:
        raise SnapshotBroken(f"the snapshot cannot be read: {error}") from error
    finally:
        known.save()


def _method(name: str, given_up: Callable[[], bool] = lambda: False) -> Callable[[Path], str]:
    """How the digest of a file is taken: the diff's is over its bytes as they were written."""
    if name == "memory.diff":
        return _plain_digest
    return lambda path: digest(path, given_up)


def _changed(name: str) -> SnapshotBroken:
    return SnapshotBroken(
        f"the file {name} of the snapshot was changed since it was made (its digest is another): "
        f"nothing is started from it; restore it from a backup, or {REBUILD}"
    )


def encode(manifest: Manifest) -> bytes:
    """Its text, and in the last line the digest of all before."""
    return closed(json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode() + b"\n")


def closed(text: bytes) -> bytes:
    """With its digest as the last line."""
    return text + hashlib.sha256(text).hexdigest().encode() + b"\n"


def decode(raw: bytes) -> Manifest:
    """Raises SnapshotBroken unless `encode` could have written it."""
    text = raw[:-65]
    if raw != closed(text):
        raise SnapshotBroken(
            "the manifest of the snapshot was changed or cut short, or is of an older version of "
            f"microvmd: restore it from a backup, or {REBUILD}"
        )
    try:
        fields: dict[str, Any] = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise SnapshotBroken(f"the manifest is of another version of microvmd: {REBUILD}")
        if unknown := fields.keys() - Manifest.__dataclass_fields__.keys():
            raise SnapshotBroken(f"the manifest has unknown members: {sorted(unknown)}")
        method, envelope = fields["method"], fields["envelope"]
        return Manifest(
            kind=SnapshotKind(fields["kind"]),
            stamp=Stamp(**fields["stamp"]),
            memory_mib=int(fields["memory_mib"]),
            vcpus=int(fields["vcpus"]),
            method=None if method is None else SuspendMethod(method),
            base=fields["base"],
            files={_name(name): FileRecord(**entry) for name, entry in fields["files"].items()},
            envelope=None if envelope is None else Envelope(**envelope),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SnapshotBroken(f"the manifest cannot be read: {error!r}") from error


def _name(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no file of a snapshot")
    return name


def _record(path: Path, sha256: str | None) -> FileRecord:
    stat = path.stat()
    return FileRecord(stat.st_size, stat.st_blocks * 512, sha256)


def _plain_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    half = directory / (MANIFEST + ".new")
    with half.open("wb") as file:
        file.write(encode(manifest))
        file.flush()
        os.fsync(file.fileno())
    half.rename(directory / MANIFEST)
    _sync(directory)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
