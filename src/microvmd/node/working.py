"""The files that the VMM of one MicroVM works on, and what becomes of them when it is suspended.

There are two kinds. `OpenFiles` lie under the root as they are, and a suspend snapshot is those
very files with a manifest. `SealedFiles` have their plain form in the memory-backed directory only
(``node/plain.py``); a suspend snapshot is their encrypted form under the root. Whoever runs a
MicroVM need not know which it has; ``node/vault.py`` decides it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from microvmd.messages.node import MicrovmSpec, VersionKey
from microvmd.node.kms import DataKey, Envelope, Kms
from microvmd.node.known_files import KnownFiles
from microvmd.node.sealed_file import seal
from microvmd.node.snapshot import (
    ImageFiles,
    Manifest,
    Stamp,
    SuspendFiles,
    commit_suspend,
    retire,
)
from microvmd.vmm.machine import SuspendMethod, SuspendStats
from microvmd.vmm.shield import shielded

SEAL_LIMIT = 1800.0
"""Seconds to encrypt or decrypt the files of one snapshot."""
FRESH = ".new"

Commit = Callable[[SuspendStats], Awaitable[int]]
"""Gives the bytes that the suspend snapshot takes on disk."""


@dataclass(slots=True)
class Hold:
    """What one MicroVM or build has in the memory-backed directory. ``Vault.holding`` frees it."""

    name: str
    image: VersionKey | None = None
    """The image version whose plain files it uses there."""
    detached: bool = False

    def detach(self) -> None:
        """Leave everything there when the context ends: a VMM goes on with it."""
        self.detached = True


@dataclass(frozen=True, slots=True)
class Image:
    """Plain files of an image version, and its manifest."""

    files: ImageFiles
    manifest: Manifest


class WorkingFiles(Protocol):
    """See the module."""

    @property
    def hold(self) -> Hold: ...

    @property
    def image(self) -> Image: ...

    @property
    def suspend(self) -> SuspendFiles:
        """Overlay, and what a suspend writes or a resume reads; always plain."""
        ...

    @property
    def in_memory(self) -> int:
        """Bytes of memory that these files may take while the VMM writes to them."""
        ...

    def saving(self) -> AbstractAsyncContextManager[Commit]:
        """Around a suspend: ask for what it needs first; call the result to make it count."""
        ...

    def retire(self) -> None:
        """Forget the suspend snapshot: call it between the restore and `cont`."""
        ...


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Under the root, as they are."""

    hold: Hold
    image: Image
    suspend: SuspendFiles
    stamp: Stamp
    known: KnownFiles
    in_memory: int = 0

    @asynccontextmanager
    async def saving(self) -> AsyncIterator[Commit]:
        yield self._commit

    async def _commit(self, stats: SuspendStats) -> int:
        made = await commit_suspend(
            self.suspend, stats, image=self.image.manifest, stamp=self.stamp, known=self.known
        )
        return made.stored_bytes

    def retire(self) -> None:
        retire(self.suspend)


@dataclass(frozen=True, slots=True)
class SealedFiles:
    """Plain in memory (`suspend`), encrypted under the root (`at_rest`)."""

    hold: Hold
    image: Image
    suspend: SuspendFiles
    at_rest: SuspendFiles
    stamp: Stamp
    known: KnownFiles
    spec: MicrovmSpec
    kms: Kms
    in_memory: int

    @asynccontextmanager
    async def saving(self) -> AsyncIterator[Commit]:
        """Raises KeyRefused before anything was stopped."""
        assert self.spec.kms_key is not None
        envelope, key = await self.kms.make(
            self.spec.kms_key, self.spec.microvm_id, self.spec.execution_role_arn
        )

        async def commit(stats: SuspendStats) -> int:
            return await self._commit(stats, envelope, key)

        with key:
            yield commit

    async def _commit(self, stats: SuspendStats, envelope: Envelope, key: DataKey) -> int:
        names = [self.suspend.overlay.name, self.suspend.device.name]
        if stats.method is SuspendMethod.DIFF:
            names.append(self.suspend.diff.name)
        await seal_all(self.suspend.directory, self.at_rest.directory, names, key)
        made = await commit_suspend(
            self.at_rest,
            stats,
            image=self.image.manifest,
            stamp=self.stamp,
            known=self.known,
            envelope=envelope,
        )
        return made.stored_bytes

    def retire(self) -> None:
        retire(self.at_rest)
        self.at_rest.overlay.unlink(missing_ok=True)
        for path in self.at_rest.directory.glob(f"*{FRESH}"):
            path.unlink()
        for path in (self.suspend.device, self.suspend.diff):
            path.unlink(missing_ok=True)


async def seal_all(source: Path, target: Path, names: list[str], key: DataKey) -> None:
    """Encrypt files of one directory into another, each put in place when it is whole and synced.

    Directories are not synced: the manifest that counts them is.
    """
    given_up = threading.Event()

    def work() -> None:
        for name in names:
            fresh = target / (name + FRESH)
            fresh.unlink(missing_ok=True)
            seal(source / name, fresh, key.material, name, given_up=given_up.is_set)
            fresh.rename(target / name)

    await shielded(asyncio.to_thread(work), limit=SEAL_LIMIT, on_cancel=given_up.set)
