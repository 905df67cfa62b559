"""Builds the root file system of an image version from a checked code artifact.

Here is what both kinds of isolation share: which bases the Dockerfile needs, the job for the
program inside, the account's layer store and its lock, and the reading of what came back. The
Dockerfile's files are never mounted or unpacked on the node.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from microvmd.build import dockerfile, image_config, job, layers, toolchain
from microvmd.build.archive import Archive
from microvmd.build.bases import BaseStore, InvalidName, normalise
from microvmd.build.debian import EPOCH, DebianUnavailable, oci_architecture
from microvmd.build.dockerfile import Dockerfile
from microvmd.build.failure import CONTAINER_BUILD_FAILED, BuildFailed
from microvmd.build.image_config import ImageConfig, InvalidConfig
from microvmd.build.job import CA_FOLDER, Job
from microvmd.build.layers import LayerLimits
from microvmd.build.lines import LINES_PER_SECOND
from microvmd.build.lock import exclusive
from microvmd.build.oci import Layout
from microvmd.build.toolchain import ImageStore, Toolchain
from microvmd.build.workshop import DiskFull, Log, Order, OutOfTime, Unenclosed, Workshop
from microvmd.model.egress import INTERNET, Egress

_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"
_EROFS_AT = 1024
_EROFS_NAMESPACE = uuid.UUID("6d6b2f8e-6a4f-5c59-9f55-2d0a5b1c7d4e")
_LOCK_TIMEOUT = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the operator and the image decide about one build.

    ``registries`` are those that a FROM line may pull from, ``docker.io`` among them or not.

    ``ca_bundle`` is a file of certificates that RUN steps get beside the image's own, with a
    pip.conf and npmrc that name it; None leaves RUN steps as they are. ``layers`` is where layer
    stores are kept instead of the cache. ``memory_bytes`` is how much the build's files may take of
    the node's memory, where they lie there; ``log_lines`` how many lines a second it may log.
    """

    account: str
    cache: Path
    workshop: Workshop
    registries: tuple[str, ...] = ()
    time_limit: float = 1800.0
    rootfs_limit: int = 8 << 30
    ca_bundle: Path | None = None
    pip_conf: Path | None = None
    layers: Path | None = None
    layer_limits: LayerLimits = field(default_factory=LayerLimits)
    memory_bytes: int = 0
    log_lines: int = LINES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Rootfs:
    """The result: a compressed read-only image, its size in bytes, and how to start it."""

    erofs: Path
    config: ImageConfig
    size: int


async def build_rootfs(
    context_zip: Archive,
    *,
    output_dir: Path,
    log: Log,
    options: BuildOptions,
    egress: Egress = INTERNET,
) -> Rootfs:
    """Run the Dockerfile of ``context_zip``; leave ``rootfs.erofs`` in ``output_dir``.

    Raises BuildFailed for everything that the image's owner can mend.
    """
    architecture = oci_architecture()
    found = await asyncio.to_thread(dockerfile.scan, context_zip.dockerfile, architecture)
    edits, warnings = found.for_architecture(architecture)
    for warning in warnings:
        log(warning)
    tools, layouts = await _provide(found, options, log)
    unique = list({layout.digest: layout for layout in layouts.values()}.values())
    stores = tuple(
        [await toolchain.image_store(tools, layout, options.cache, log) for layout in unique]
    )
    with _scratch(output_dir, options) as scratch:
        order = Order(
            archive=context_zip.path,
            extras=scratch / "extras",
            output=scratch / "rootfs.erofs",
            result=scratch / "result",
            layers=layers.place(
                options.layers or options.cache, options.account, (one.digest for one in unique)
            ),
            stores=stores,
            toolchain=tools,
            time_limit=options.time_limit,
            egress=egress,
            memory_bytes=options.memory_bytes,
            log_lines=options.log_lines,
        )
        work = Job(
            archive_size=context_zip.size,
            lines=edits,
            names={name: layout.image_id for name, layout in layouts.items()},
            bases=_base_paths(options.workshop, stores),
            pull="missing" if options.registries else "never",
            timestamp=EPOCH,
            uuid=str(uuid.uuid5(_EROFS_NAMESPACE, options.account)),
            volumes=_volumes(options),
        )
        _write_job(order, options.workshop.complete(work))
        try:
            await _run(order, options, log)
        finally:
            await layers.prune(order.layers.parent.parent, options.layer_limits)
        return await asyncio.to_thread(_collect, order, output_dir, options)


async def _provide(
    found: Dockerfile, options: BuildOptions, log: Log
) -> tuple[Toolchain, dict[str, Layout]]:
    """Return the builder root, and the local image for each name that has one."""
    store = BaseStore(options.cache / "bases")
    local = _local_images(found, store, options.registries)
    try:
        tools = await toolchain.prepare(options.cache, log)
        return tools, {name: await store.ensure(name, log) for name in local}
    except DebianUnavailable as error:
        log(f"error: {error}")
        raise BuildFailed(
            "INTERNAL_PLATFORM_ERROR", "The node cannot make the builder or a base image."
        ) from error


def _local_images(found: Dockerfile, store: BaseStore, registries: tuple[str, ...]) -> list[str]:
    """Names that the local store serves. Raises BuildFailed for one that nothing can serve."""
    local: list[str] = []
    for name in found.images:
        if store.knows(name):
            local.append(name)
        elif _registry_of(name) not in registries:
            raise BuildFailed("CONTAINER_BUILD_FAILED", _unknown_base(name, registries))
    return local


def _registry_of(name: str) -> str | None:
    try:
        return normalise(name).partition("/")[0]
    except InvalidName:
        return None


def _unknown_base(name: str, registries: tuple[str, ...]) -> str:
    registry = _registry_of(name)
    if registry is None:
        # Whatever has a transport is none: oci:/path and dir:/path would name files of the builder.
        return f"The Dockerfile names the image {name[:200]!r}, which is no valid image name."
    if registries:
        return (
            f"The base image {name} is not in the local store, and its registry {registry} is not "
            f"one of those that are allowed: {', '.join(registries)}."
        )
    return (
        f"The base image {name} is not in the local store and no registry is allowed. "
        f"Add it with 'microvmd base add {name} TARBALL', or let it stand for one that is there, "
        f"as in 'microvmd base alias {name} microvmd/debian:12'."
    )


def _base_paths(workshop: Workshop, stores: tuple[ImageStore, ...]) -> tuple[str, ...]:
    return tuple(workshop.base_path(store, position) for position, store in enumerate(stores))


def _volumes(options: BuildOptions) -> tuple[str, ...]:
    volumes: list[str] = []
    if options.ca_bundle is not None:
        volumes += [f"/build/extras/ca:{CA_FOLDER}:ro"]
        # Debian's npm reads the first, the npm of upstream's images the second.
        volumes += ["/build/extras/npmrc:/etc/npmrc:ro"]
        volumes += ["/build/extras/npmrc:/usr/local/etc/npmrc:ro"]
    if options.ca_bundle is not None or options.pip_conf is not None:
        volumes += ["/build/extras/pip.conf:/etc/pip.conf:ro"]
    return tuple(volumes)


@contextlib.contextmanager
def _scratch(output_dir: Path, options: BuildOptions) -> Iterator[Path]:
    """A folder for the half-made image, with the extras in place."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=output_dir) as folder:
        scratch = Path(folder)
        (scratch / "extras").mkdir()
        (scratch / "rootfs.erofs").touch(0o600)
        with (scratch / "result").open("xb") as file:
            file.truncate(job.RESULT_BYTES)
        if options.ca_bundle is not None:
            (scratch / "extras" / "ca").mkdir()
            shutil.copyfile(options.ca_bundle, scratch / "extras" / "ca" / "ca.crt")
            (scratch / "extras" / "npmrc").write_text(f"cafile={CA_FOLDER}/ca.crt\n")
            (scratch / "extras" / "pip.conf").write_text(f"[global]\ncert = {CA_FOLDER}/ca.crt\n")
        if options.pip_conf is not None:
            shutil.copyfile(options.pip_conf, scratch / "extras" / "pip.conf")
        yield scratch


def _write_job(order: Order, work: Job) -> None:
    (order.extras / "job.json").write_text(work.to_json())


async def _run(order: Order, options: BuildOptions, log: Log) -> None:
    """Run with the layer store held; a full store of an earlier build is dropped and tried anew."""
    waiting = "waiting for another build of this account, which holds the layer cache"
    lock = layers.lock_of(order.layers)
    async with exclusive(lock, timeout_seconds=_LOCK_TIMEOUT, on_wait=lambda: log(waiting)):
        warm = layers.mark_used(order.layers)
        code = await _run_once(order, options.workshop, log)
        if code == job.EXIT_FULL and await options.workshop.forget_layers(order) and warm:
            log("the layer cache is full: dropped it, building again from the start")
            code = await _run_once(order, options.workshop, log)
    _judge(code, log)


def _judge(code: int, log: Log) -> None:
    """Raise BuildFailed for an exit code of ``inside``, which may be any number, but 0."""
    match code:
        case 0:
            return
        case job.EXIT_FAILED:
            raise BuildFailed("CONTAINER_BUILD_FAILED", CONTAINER_BUILD_FAILED)
        case job.EXIT_FULL:
            raise BuildFailed("DISK_STORAGE_FULL", "The build needs more disk than it may use.")
        case job.EXIT_TOO_LARGE:
            raise BuildFailed("DISK_STORAGE_FULL", "The image is larger than its disk.")
        case job.EXIT_UNPACK:
            raise BuildFailed("ARCHIVE_INVALID", "The archive cannot be unpacked.")
        case _:
            log(f"error: the builder ended with exit code {code}")
            raise BuildFailed("INTERNAL_PLATFORM_ERROR", "The builder ended unexpectedly.")


async def _run_once(order: Order, workshop: Workshop, log: Log) -> int:
    try:
        return await workshop.run(order, log)
    except OutOfTime:
        seconds = f"{order.time_limit:.0f} seconds"
        log(f"error: the build was ended after {seconds}")
        raise BuildFailed("CONTAINER_BUILD_FAILED", f"The build took over {seconds}.") from None
    except Unenclosed:
        raise BuildFailed(
            "CONTAINER_BUILD_FAILED",
            "With build.isolation=namespace no build can be kept to a network connector. "
            "Build this image with build.isolation=microvm.",
        ) from None
    except DiskFull:
        raise BuildFailed("DISK_STORAGE_FULL", "The node has no disk space for builds.") from None


def _collect(order: Order, output_dir: Path, options: BuildOptions) -> Rootfs:
    """Judge what came back and move it to its final name."""
    try:
        with order.result.open("rb") as file:
            config = image_config.parse(file.read(job.RESULT_BYTES).rstrip(b" \0"))
    except InvalidConfig as error:
        raise BuildFailed("CONTAINER_BUILD_FAILED", f"The image is unusable: {error}.") from error
    size = _erofs_size(order.output)
    if size > options.rootfs_limit:
        raise BuildFailed(
            "DISK_STORAGE_FULL",
            f"The image has {size} bytes, more than the {options.rootfs_limit} of its disk.",
        )
    with order.output.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())
    final = output_dir / "rootfs.erofs"
    order.output.rename(final)
    return Rootfs(final, config, size)


def _erofs_size(path: Path) -> int:
    """Read the size from the superblock: 4-byte block bits at 12, block count at 36."""
    with path.open("rb") as file:
        file.seek(_EROFS_AT)
        superblock = file.read(128)
    if len(superblock) < 128 or not superblock.startswith(_EROFS_MAGIC):
        raise BuildFailed("INTERNAL_PLATFORM_ERROR", "The builder left no file system.")
    bits, blocks = superblock[12], int.from_bytes(superblock[36:40], "little")
    size = blocks << bits if bits <= 16 else 0
    if not 0 < size <= path.stat().st_size:
        raise BuildFailed("INTERNAL_PLATFORM_ERROR", "The builder's file system is malformed.")
    return size
