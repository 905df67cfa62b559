"""A vault over a directory of a test's own, a KMS (moto), and images made of a few bytes."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

from microvmd.messages.node import LogTarget, MicrovmSpec, VersionKey
from microvmd.model.hooks import Hooks
from microvmd.model.image import VersionConfig
from microvmd.node.kms import Kms, KmsSettings
from microvmd.node.paths import NodePaths
from microvmd.node.plain import PlainDirectory
from microvmd.node.snapshot import Manifest, Stamp
from microvmd.node.vault import Vault
from tests import buildlab

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/run"
VERSION = VersionKey("000000000000", "app", "1.0")
STAMP = Stamp("tcg", "10.0.2", "max", "devices")
IMAGE = {"rootfs.erofs": 5000, "disk.raw": 70_000, "memory": 300_000, "device": 900}


@dataclass(frozen=True)
class KeyService:
    """A running KMS, its administrator and a key."""

    settings: KmsSettings
    admin: "KMSClient"
    key: str

    def disable(self) -> None:
        self.admin.disable_key(KeyId=self.key.rpartition("/")[2])

    def enable(self) -> None:
        self.admin.enable_key(KeyId=self.key.rpartition("/")[2])


@contextmanager
def key_service() -> Iterator[KeyService]:
    """No plain key is remembered, so that each use asks."""
    with buildlab.aws() as (url, _):
        admin = boto3.client(
            "kms",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        settings = KmsSettings(REGION, url, url, "test", "test", cache_seconds=0, check_state=True)
        yield KeyService(settings, admin, admin.create_key()["KeyMetadata"]["Arn"])
        admin.close()


@dataclass(frozen=True)
class VaultLab:
    """One run of a vault; ``files`` is what the image was made of."""

    vault: Vault
    paths: NodePaths
    plain: PlainDirectory
    kms: Kms
    files: dict[str, bytes]

    @property
    def mounted(self) -> bool:
        return self.plain.path.is_mount()

    async def image(self, key: str | None, version: VersionKey = VERSION) -> Manifest:
        """Keep an image version, encrypted or not."""
        async with self.vault.workroom(key) as room:
            made = room / "image"
            made.mkdir()
            for name, content in self.files.items():
                (made / name).write_bytes(content)
            return await self.vault.keep(
                made, version, key_id=key, role=ROLE, stamp=STAMP, memory_mib=1, vcpus=1
            )

    def spec(self, key: str | None, microvm_id: str = "microvm-1") -> MicrovmSpec:
        """A MicroVM whose directory is there."""
        self.paths.microvm(microvm_id).directory.mkdir(exist_ok=True)
        return MicrovmSpec(
            microvm_id=microvm_id,
            generation=1,
            version=VERSION,
            image_arn="arn",
            size=VersionConfig("base", "role", "uri").size,
            hooks=Hooks(),
            log=LogTarget("group", "stream"),
            execution_role_arn=ROLE,
            kms_key=key,
        )


@asynccontextmanager
async def vault_lab(
    directory: Path, service: KeyService, *, limit: int = 64 << 20, **settings: float
) -> AsyncIterator[VaultLab]:
    """Open it again over the same directory to play a restart."""
    paths = NodePaths(directory / "root")
    paths.make()
    plain = PlainDirectory(directory / "run" / "plain", limit)
    draw = random.Random(1)
    files = {name: draw.randbytes(size) for name, size in IMAGE.items()}
    async with Kms(replace(service.settings, **settings)) as kms:  # type: ignore[arg-type]
        yield VaultLab(Vault(paths, STAMP, plain, kms), paths, plain, kms, files)
