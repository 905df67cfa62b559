"""A node whose KMS is moto, an image version under a key, and where secrets lie plain."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3

from microvmd.messages.node import (
    MicrovmSpec,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendMicrovm,
    Terminated,
    VersionKey,
)
from microvmd.model.hooks import HookName
from microvmd.node.kms import KmsSettings
from microvmd.node.paths import remove
from microvmd.node.sparse import blocks
from tests import buildlab
from tests.nodelab import ACCOUNT, ROLE, NodeLab, RunningNode, ask, spec_of, with_hooks

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

REGION = "us-east-1"
IN_IMAGE = "hidden-in-the-image-5d1c7f"
IN_MEMORY = "hidden-in-the-memory-93ab02"
ON_DISK = "hidden-on-the-disk-c0ffee"
SECRETS = (IN_IMAGE, IN_MEMORY, ON_DISK)
SEALED = VersionKey(ACCOUNT, "sealed", "1.0")
HOOKS = with_hooks(HookName.RUN)
IMAGE_FILES = ("rootfs.erofs", "disk.raw", "memory", "device")
SUSPEND_FILES = ("overlay.qcow2", "memory.diff", "device")


def secrets_of(path: Path) -> set[str]:
    """Which secrets a file holds, also across its blocks; holes are not read."""
    found: set[str] = set()
    end, tail = 0, b""
    with path.open("rb") as file:
        for offset, block in blocks(file.fileno()):
            text = tail + block if offset == end else block
            found |= {secret for secret in SECRETS if secret.encode() in text}
            end, tail = offset + len(block), block[-100:]
    return found


@dataclass(frozen=True)
class Site:
    """A node whose KMS is moto, and an image version under a key."""

    lab: NodeLab
    admin: "KMSClient"
    key: str

    @classmethod
    @contextmanager
    def made(cls, lab: NodeLab) -> Iterator[Self]:
        """On this node; what is under the key is removed at the end."""
        with buildlab.aws() as (url, _), closing(_kms(url)) as admin:
            key = admin.create_key()["KeyMetadata"]["Arn"]
            kms = KmsSettings(REGION, url, url, "test", "test", cache_seconds=0, check_state=True)
            made = cls(replace(lab, kms=kms), admin, key)
            asyncio.run(made._capture())
            yield made
            remove(made.root / "images" / ACCOUNT / SEALED.image_name)

    async def _capture(self) -> None:
        async with self.lab.equipment() as equipment:
            await self.lab.capture(
                equipment, hooks=HOOKS, version=SEALED, kms_key=self.key, secret=IN_IMAGE
            )

    def spec(self, *, version: VersionKey = SEALED, key: str | None = None) -> MicrovmSpec:
        return replace(
            spec_of(HOOKS),
            version=version,
            run_hook_payload=IN_MEMORY,
            execution_role_arn=ROLE,
            kms_key=key or (self.key if version == SEALED else None),
        )

    def disable(self, *, key: str | None = None) -> None:
        self.admin.disable_key(KeyId=(key or self.key).rpartition("/")[2])

    def enable(self, *, key: str | None = None) -> None:
        self.admin.enable_key(KeyId=(key or self.key).rpartition("/")[2])

    @property
    def root(self) -> Path:
        return self.lab.directory / "root"

    def secrets_found(self) -> set[str]:
        """Which secrets lie plain in files under the root."""
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        return set().union(*map(secrets_of, files))

    def nothing_in_memory(self) -> bool:
        return not os.path.ismount(self.lab.plain)


def _kms(url: str) -> "KMSClient":
    return boto3.client(
        "kms",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


async def started(node: RunningNode, spec: MicrovmSpec) -> str:
    await node.start(spec)
    return (await node.reports.next(Started)).edge_address


async def resumed(node: RunningNode, spec: MicrovmSpec) -> str:
    await node.agent.send(ResumeMicrovm(spec))
    return (await node.reports.next(Started)).edge_address


async def suspend(node: RunningNode, spec: MicrovmSpec) -> None:
    await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))


async def stored(node: RunningNode, spec: MicrovmSpec) -> None:
    """Suspend, and wait until nothing of the generation is held any more."""
    task = node.agent.task_of(spec.microvm_id)
    assert task is not None
    await suspend(node, spec)
    await node.reports.next(Suspended)
    own = node.lab.plain / "microvms" / spec.microvm_id
    assert not own.exists(), "SUSPENDED means that only the encrypted form is left"
    await task.left.wait()


async def gone(node: RunningNode, spec: MicrovmSpec) -> None:
    await node.terminate(spec)
    await node.reports.next(Terminated)
    assert not node.equipment.paths.microvm(spec.microvm_id).directory.exists()


@asynccontextmanager
async def suspended(node: RunningNode, spec: MicrovmSpec) -> AsyncIterator[MicrovmSpec]:
    """A suspended MicroVM that was asked once, ended afterwards; yields its next generation."""
    assert await ask(await started(node, spec), "count") == "1"
    await stored(node, spec)
    yield replace(spec, generation=2)
    task = node.agent.task_of(spec.microvm_id)
    await gone(node, replace(spec, generation=2) if task is None else task.spec)


class flipped:
    """One bit of a file is another one within the context."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._flip()

    def __exit__(self, *_: object) -> None:
        self._flip()

    def _flip(self) -> None:
        with self._path.open("r+b") as file:
            middle = self._path.stat().st_size // 2
            file.seek(middle)
            byte = file.read(1)[0]
            file.seek(middle)
            file.write(bytes([byte ^ 8]))
