"""Decides where the plain files of images and MicroVMs are, and who may still need them.

Without a KMS key they lie under the root. With one, only their encrypted form does; the plain form
is made in the memory-backed directory when a MicroVM needs it, after KMS has opened the data key
for that very start, and it is gone with the last one that uses it. All MicroVMs of an image version
map the same plain memory file, so their page cache stays shared.

What a VMM uses there goes on when this process ends without it; the next one takes it over by the
names of the MicroVMs (`sweep`, then `holding`).
"""

import asyncio
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Sequence, Set
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from microvmd.messages.node import MicrovmSpec, VersionKey
from microvmd.node.kms import DataKey, Kms
from microvmd.node.known_files import KnownFiles
from microvmd.node.paths import NodePaths, link
from microvmd.node.plain import PlainDirectory
from microvmd.node.sealed_file import SealBroken, unseal
from microvmd.node.snapshot import (
    REBUILD,
    ImageFiles,
    Manifest,
    SnapshotBroken,
    SnapshotForeign,
    Stamp,
    SuspendFiles,
    check,
    load,
    read,
    seal_image,
    unknown,
)
from microvmd.node.working import (
    SEAL_LIMIT,
    Hold,
    Image,
    OpenFiles,
    SealedFiles,
    WorkingFiles,
    seal_all,
)
from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

FREE_LIMIT = 60.0
SEALED_NAMES = ("rootfs.erofs", "config.json", "disk.raw", "memory", "device")
"""Of an image. The kernel beside them is for the boot of the build only, and nobody's secret."""
DISK_BYTES = 1 << 30
READ_LIMIT = 1800.0
"""Seconds to read the files of one snapshot in full."""
READERS = 2
"""Snapshots that are read in full at a time; more would only take each other's disk."""


class Vault:
    """`disk_bytes` is how much a MicroVM whose disk is in memory may write between two resumes.

    `checked` is off only where a test shows what the check is for. `others` are stamps of the VMMs
    that an image may choose beside the node's own.
    """

    def __init__(
        self,
        paths: NodePaths,
        stamp: Stamp,
        plain: PlainDirectory,
        kms: Kms,
        *,
        disk_bytes: int = DISK_BYTES,
        checked: bool = True,
        others: Collection[Stamp] = (),
    ) -> None:
        self._paths = paths
        self._stamp = stamp
        self._others = others
        self._plain = plain
        self._kms = kms
        self._disk_bytes = disk_bytes
        self._checked = checked
        self._known = KnownFiles(paths.known_files)
        self._reading: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._readers = asyncio.Semaphore(READERS)
        self._users: Counter[VersionKey] = Counter()
        self._left: dict[str, VersionKey | None] = {}
        """MicroVMs whose plain files an earlier run left, and the image that each uses."""
        self._unsealing: defaultdict[VersionKey, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tree = asyncio.Lock()
        """Held while directories come and go, and the mount with them."""

    async def sweep(self, microvms: Set[str]) -> None:
        """Remove what no VMM of `microvms` uses, and remember what those use."""
        removed = await asyncio.to_thread(self._plain.sweep, microvms)
        if removed:
            log.info("vault.swept", paths=[str(path) for path in removed])
        self._left = {microvm_id: self._taken_over(microvm_id) for microvm_id in microvms}

    # -- MicroVMs ----------------------------------------------------------------------------

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[Hold]:
        """Own what this MicroVM has or gets in memory; freed at the end unless detached."""
        image = self._left.pop(name) if name in self._left else self._taken_over(name)
        hold = Hold(name, image)
        try:
            yield hold
        finally:
            if not hold.detached:
                await shielded(self._free(hold), limit=FREE_LIMIT)

    async def started(self, hold: Hold, spec: MicrovmSpec) -> WorkingFiles:
        """For a MicroVM that begins; its overlay is yet to be made. Raises KeyRefused, NoRoom."""
        image = await self.image(hold, spec.version, spec.execution_role_arn)
        if spec.kms_key is None:
            return self._open(hold, spec, image)
        envelope = image.manifest.envelope
        if envelope is None or envelope.asked != spec.kms_key:
            await self.prove(spec.kms_key, spec.microvm_id, spec.execution_role_arn)
        await self._place(hold, {}, None)
        return self._sealed(hold, spec, image)

    async def resumed(self, hold: Hold, spec: MicrovmSpec) -> WorkingFiles:
        """For a MicroVM with a suspend snapshot, which stays as it is until it is retired."""
        directory = self._paths.microvm(spec.microvm_id).directory
        manifest = load(directory, stamp=self._stamp, others=self._others)
        if manifest.envelope is None:
            image = await self._image_of(manifest, hold, spec)
            await self._check(directory, manifest)
            return self._open(hold, spec, image)
        with await self._kms.open(manifest.envelope, spec.execution_role_arn) as key:
            image = await self._image_of(manifest, hold, spec)
            await self._place(hold, manifest.files, key)
        return self._sealed(hold, spec, image)

    def adopted(self, hold: Hold, spec: MicrovmSpec) -> WorkingFiles:
        """For a MicroVM whose VMM an earlier run left. Asks KMS for nothing: it runs already.

        And goes on under what it was restored by, also where this node would restore no more of
        its image.
        """
        manifest = read(self._paths.image(spec.version).directory)
        if manifest.stamp.vmm not in {one.vmm for one in (self._stamp, *self._others)}:
            raise SnapshotForeign(f"it runs under {manifest.stamp.vmm}, which is not chosen now")
        image = Image(self._image_files(spec.version, manifest), manifest)
        if self._plain.microvm(hold.name).exists():
            return self._sealed(hold, spec, image)
        if not self._paths.microvm(spec.microvm_id).suspend.overlay.exists():
            raise SnapshotBroken("the plain files of its VMM are gone")
        return self._open(hold, spec, image)

    async def clear(self, hold: Hold) -> None:
        """Remove the MicroVM's own plain files: they lie encrypted under the root now."""
        directory = self._plain.microvm(hold.name)
        if directory.exists():
            await self._drop(directory)

    # -- keys --------------------------------------------------------------------------------

    async def prove(self, key_id: str, owner: str, role: str | None) -> None:
        """Raises KeyRefused unless this caller can encrypt with the key now."""
        _, key = await self._kms.make(key_id, owner, role)
        key.wipe()

    async def check(self, spec: MicrovmSpec) -> None:
        """Ask KMS for what a start or resume of this MicroVM will need. Raises KeyRefused.

        Whatever else is wrong with the files is told by the start itself.
        """
        role = spec.execution_role_arn
        asked = None
        places = [self._paths.image(spec.version).directory]
        places.append(self._paths.microvm(spec.microvm_id).directory)
        for place in places:
            try:
                envelope = (await asyncio.to_thread(read, place)).envelope
            except SnapshotBroken:
                continue
            if envelope is not None:
                asked = envelope.asked
                (await self._kms.open(envelope, role)).wipe()
        if spec.kms_key is not None and spec.kms_key != asked:
            await self.prove(spec.kms_key, spec.microvm_id, role)

    # -- images and builds -------------------------------------------------------------------

    async def image(self, hold: Hold, version: VersionKey, role: str | None) -> Image:
        """The plain files of an image version, which `hold` uses from now on."""
        directory = self._paths.image(version).directory
        manifest = load(directory, stamp=self._stamp, others=self._others)
        if manifest.envelope is None:
            await self._check(directory, manifest)
        else:
            with await self._kms.open(manifest.envelope, role) as key:
                await self._use(hold, version, manifest, key)
        return Image(self._image_files(version, manifest), manifest)

    def unfit(self, version: VersionKey) -> str | None:
        """Why no MicroVM can be started from this snapshot here; None when one can.

        Raises SnapshotBroken.
        """
        try:
            load(self._paths.image(version).directory, stamp=self._stamp, others=self._others)
        except SnapshotForeign as foreign:
            return foreign.difference
        return None

    def fitting(self, version: VersionKey) -> str | None:
        """The build whose snapshot of this version MicroVMs can be started from here."""
        for key in reversed(self._paths.snapshots(version)):
            with suppress(SnapshotBroken):
                if self.unfit(key) is None:
                    return key.build
        return None

    async def take_out(
        self, version: VersionKey, names: Sequence[str], target: Path, role: str
    ) -> None:
        """Plain files of a snapshot of whatever stamp, in a `workroom`; they are not to be written
        to. Raises SnapshotBroken, KeyRefused, NoRoom."""
        source = self._paths.image(version).directory
        manifest = await asyncio.to_thread(read, source)
        if missing := [name for name in names if name not in manifest.files]:
            raise SnapshotBroken(
                f"the image was built by an older version of microvmd, which kept no "
                f"{', '.join(missing)} to build it again from: {REBUILD}"
            )
        given_up = threading.Event()

        def work(key: DataKey | None) -> None:
            for name in names:
                if key is None:
                    link(source / name, target / name)
                else:
                    unseal(
                        source / name, target / name, key.material, name, given_up=given_up.is_set
                    )

        if manifest.envelope is None:
            await self._check(source, manifest, names)
            await asyncio.to_thread(work, None)
            return
        self._plain.check_room(sum((source / name).stat().st_size for name in names))
        with await self._kms.open(manifest.envelope, role) as key:
            try:
                await shielded(
                    asyncio.to_thread(work, key), limit=SEAL_LIMIT, on_cancel=given_up.set
                )
            except SealBroken as broken:
                raise SnapshotBroken(f"the encrypted snapshot is damaged: {broken}") from broken

    @asynccontextmanager
    async def workroom(self, key_id: str | None) -> AsyncIterator[Path]:
        """A folder for a build, in memory when what it makes is to be encrypted."""
        if key_id is None:
            with tempfile.TemporaryDirectory(prefix="build-", dir=self._paths.tmp) as folder:
                yield Path(folder)
            return
        async with self._tree:
            room = self._plain.half(self._plain.builds / "any")
        try:
            yield room
        finally:
            await shielded(self._drop(room), limit=FREE_LIMIT)

    def build_memory(self, key_id: str | None) -> int:
        """Bytes of memory that the files of a build may take."""
        return 0 if key_id is None else self._plain.capacity

    async def keep(
        self,
        made: Path,
        version: VersionKey,
        *,
        key_id: str | None,
        role: str,
        stamp: Stamp,
        memory_mib: int,
        vcpus: int,
    ) -> Manifest:
        """Move the files of a finished image snapshot to their place, encrypted if so asked."""
        final = self._paths.image(version).directory
        if key_id is None:
            return await seal_image(
                made,
                final,
                stamp=stamp,
                memory_mib=memory_mib,
                vcpus=vcpus,
                known=self._known,
            )
        envelope, key = await self._kms.make(key_id, str(version), role)
        names = [name for name in SEALED_NAMES if (made / name).exists()]
        with (
            key,
            tempfile.TemporaryDirectory(
                prefix="sealed-", dir=self._paths.tmp, ignore_cleanup_errors=True
            ) as folder,
        ):
            sealed = Path(folder) / "image"
            sealed.mkdir(mode=0o755)
            await seal_all(made, sealed, names, key)
            return await seal_image(
                sealed,
                final,
                stamp=stamp,
                memory_mib=memory_mib,
                vcpus=vcpus,
                known=self._known,
                envelope=envelope,
            )

    # -- inside ------------------------------------------------------------------------------

    async def _image_of(self, manifest: Manifest, hold: Hold, spec: MicrovmSpec) -> Image:
        """The image that a suspend snapshot was taken on. Raises SnapshotBroken for another."""
        image = await self.image(hold, spec.version, spec.execution_role_arn)
        if self._checked and manifest.base != image.manifest.files["memory"].sha256:
            raise SnapshotBroken("the suspend snapshot belongs to the memory of another image")
        return image

    async def _check(
        self, directory: Path, manifest: Manifest, only: Sequence[str] | None = None
    ) -> None:
        """Files that lie open are what their manifest says. Raises SnapshotBroken.

        A stat for each file where they were read in full since the machine was booted; else they
        are read in a thread, once for all who wait for them.
        """

        def left() -> list[str]:
            found = unknown(directory, manifest, self._known)
            return [name for name in found if only is None or name in only]

        if not self._checked or not left():
            return
        async with self._reading.setdefault(directory, asyncio.Lock()), self._readers:
            names = left()
            if not names:
                return
            log.info("snapshot.reading", directory=str(directory), files=names)
            given_up = threading.Event()
            work = asyncio.to_thread(
                check, directory, manifest, names, self._known, given_up.is_set
            )
            await shielded(work, limit=READ_LIMIT, on_cancel=given_up.set)

    def _image_files(self, version: VersionKey, manifest: Manifest) -> ImageFiles:
        if manifest.envelope is None:
            return self._paths.image(version)
        return ImageFiles(self._plain.image(version))

    def _open(self, hold: Hold, spec: MicrovmSpec, image: Image) -> OpenFiles:
        at_rest = self._paths.microvm(spec.microvm_id).suspend
        return OpenFiles(hold, image, at_rest, image.manifest.stamp, self._known)

    def _sealed(self, hold: Hold, spec: MicrovmSpec, image: Image) -> SealedFiles:
        # A page of the memory file that is a hole takes memory as soon as a guest looks at it.
        holes = 0 if image.manifest.envelope is None else image.manifest.memory_mib << 20
        return SealedFiles(
            hold=hold,
            image=image,
            suspend=SuspendFiles(self._plain.microvm(hold.name)),
            at_rest=self._paths.microvm(spec.microvm_id).suspend,
            stamp=image.manifest.stamp,
            known=self._known,
            spec=spec,
            kms=self._kms,
            in_memory=holes + self._disk_bytes,
        )

    async def _use(self, hold: Hold, version: VersionKey, manifest: Manifest, key: DataKey) -> None:
        place = self._plain.image(version)

        def readable(directory: Path) -> None:
            """A jailed VMM opens the memory by its path."""
            for path in directory.iterdir():
                path.chmod(0o444)

        async with self._unsealing[version]:
            if not place.exists():
                source = self._paths.image(version).directory
                await self._unseal(source, place, manifest.files, key, readable)
            if hold.image is None:
                hold.image = version
                self._users[version] += 1

    async def _place(self, hold: Hold, names: Collection[str], key: DataKey | None) -> None:
        """The MicroVM's own plain directory, with these files of its suspend snapshot."""

        def linked(directory: Path) -> None:
            if hold.image is not None:
                (directory / "image").symlink_to(self._plain.image(hold.image))

        source = self._paths.microvm(hold.name).directory
        await self._unseal(source, self._plain.microvm(hold.name), names, key, linked)

    async def _unseal(
        self,
        source: Path,
        target: Path,
        names: Collection[str],
        key: DataKey | None,
        finish: Callable[[Path], None],
    ) -> None:
        """Make the plain directory `target` as a whole or not at all."""
        self._plain.check_room(sum((source / name).stat().st_size for name in names))
        async with self._tree:
            half = self._plain.half(target)
        given_up = threading.Event()

        def work() -> None:
            for name in names:
                assert key is not None
                unseal(source / name, half / name, key.material, name, given_up=given_up.is_set)
            finish(half)

        try:
            await shielded(asyncio.to_thread(work), limit=SEAL_LIMIT, on_cancel=given_up.set)
            async with self._tree:
                target.parent.mkdir(parents=True, exist_ok=True)
                half.rename(target)
        except SealBroken as broken:
            await shielded(self._drop(half), limit=FREE_LIMIT)
            raise SnapshotBroken(f"the encrypted snapshot is damaged: {broken}") from broken
        except BaseException:
            await shielded(self._drop(half), limit=FREE_LIMIT)
            raise

    async def _free(self, hold: Hold) -> None:
        await self.clear(hold)
        version = hold.image
        if version is None:
            return
        async with self._unsealing[version]:
            self._users[version] -= 1
            if self._users[version] == 0:
                del self._users[version]
                await self._drop(self._plain.image(version))

    async def _drop(self, directory: Path) -> None:
        """What cannot be removed now is by the next sweep; nobody's work ends for it."""
        async with self._tree:
            try:
                await asyncio.to_thread(self._plain.drop, directory)
            except OSError:
                log.exception("vault.plain_left", path=str(directory))

    def _taken_over(self, name: str) -> VersionKey | None:
        """Count a MicroVM that an earlier run left among the users of its image."""
        used = self._plain.used(name)
        self._users.update([] if used is None else [used])
        return used
