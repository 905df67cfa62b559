"""Wires what encrypts snapshots: which KMS is asked as whom, and where plain files are."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from microvmd.node.aws_access import AwsAccess
from microvmd.node.kms import Kms, KmsSettings
from microvmd.node.paths import NodePaths
from microvmd.node.plain import PlainDirectory
from microvmd.node.snapshot import Stamp
from microvmd.node.vault import Vault
from microvmd.settings.settings import Settings


@asynccontextmanager
async def vault(
    settings: Settings,
    access: AwsAccess,
    paths: NodePaths,
    stamp: Stamp,
    others: Collection[Stamp],
) -> AsyncIterator[Vault]:
    """The vault of a service, a process that leaves no core dump."""
    memory_mib = settings.encryption.memory_mib
    limit = None if memory_mib is None else memory_mib << 20
    plain = PlainDirectory(settings.run / "plain", limit)
    async with Kms(kms_settings(settings, access)) as kms:
        disk_bytes = settings.encryption.disk_mib << 20
        yield Vault(paths, stamp, plain, kms, disk_bytes=disk_bytes, others=others)


def kms_settings(settings: Settings, access: AwsAccess) -> KmsSettings:
    """In local mode KMS is behind our own API's port."""
    local = settings.aws.local
    return KmsSettings(
        region=access.region,
        kms_endpoint=settings.api.url if local else settings.aws.kms_endpoint,
        sts_endpoint=access.sts_endpoint,
        access_key=access.access_key,
        secret_key=access.secret_key,
        cache_seconds=float(settings.encryption.key_cache_seconds),
        check_state=local,
    )
