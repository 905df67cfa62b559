"""What the builder decides and judges itself; real builds are in tests/vm."""

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from microvmd.build import job
from microvmd.build.archive import Archive, ArchiveLimits, inspect
from microvmd.build.builder import BuildOptions, _collect, _erofs_size, _run, build_rootfs
from microvmd.build.failure import BuildFailed
from microvmd.build.in_namespace import NamespaceWorkshop
from microvmd.build.job import Job
from microvmd.build.toolchain import ImageStore, Toolchain
from microvmd.build.workshop import Log, Order, Unenclosed
from tests.unit.build.test_archive import pack


def superblock(blocks: int, bits: int = 12, magic: bytes = b"\xe2\xe1\xf5\xe0") -> bytes:
    block = bytearray(128)
    block[:4] = magic
    block[12] = bits
    block[36:40] = blocks.to_bytes(4, "little")
    return bytes(1024) + bytes(block)


def order(directory: Path, image: bytes, size: int, result: object) -> Order:
    (directory / "scratch").mkdir()
    output, written = directory / "scratch" / "output", directory / "scratch" / "result"
    with output.open("wb") as file:
        file.write(image)
        file.truncate(size)
    written.write_bytes(json.dumps(result).encode().ljust(job.RESULT_BYTES))
    nothing = Path("/nonexistent")
    toolchain = Toolchain(nothing, nothing, "")
    return Order(nothing, nothing, output, written, nothing, (), toolchain, 1.0)


def options(directory: Path, **changes: int) -> BuildOptions:
    limit = changes.get("rootfs_limit", 1 << 30)
    return BuildOptions("1", directory, NamespaceWorkshop(), rootfs_limit=limit)


def test_a_result_is_cut_to_its_size_and_moved(tmp_path: Path) -> None:
    result = {"Docker": {"config": {"Cmd": ["/a"]}}}
    done = order(tmp_path, superblock(2), 1 << 20, result)
    rootfs = _collect(done, tmp_path, options(tmp_path))
    assert (rootfs.erofs, rootfs.size) == (tmp_path / "rootfs.erofs", 8192)
    assert rootfs.erofs.stat().st_size == 8192
    assert rootfs.config.argv == ("/a",)


def test_a_large_image_is_refused(tmp_path: Path) -> None:
    done = order(tmp_path, superblock(2), 1 << 20, {})
    with pytest.raises(BuildFailed, match="DISK_STORAGE_FULL"):
        _collect(done, tmp_path, options(tmp_path, rootfs_limit=8191))


def test_a_hostile_configuration_is_refused(tmp_path: Path) -> None:
    done = order(tmp_path, superblock(2), 1 << 20, {"Docker": {"config": {"Cmd": 1}}})
    with pytest.raises(BuildFailed, match="The image is unusable"):
        _collect(done, tmp_path, options(tmp_path))


@pytest.mark.parametrize(
    "image",
    [
        b"",
        superblock(1, magic=b"abcd"),
        superblock(0),
        superblock(257),
        superblock(1, bits=255),
        superblock(0xFFFFFFFF, bits=16),
    ],
)
def test_what_is_no_erofs_is_refused(tmp_path: Path, image: bytes) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(image)
        file.truncate(1 << 20 if image else 0)
    with pytest.raises(BuildFailed, match="INTERNAL_PLATFORM_ERROR"):
        _erofs_size(path)


def artifact(directory: Path, dockerfile: str) -> Archive:
    path = directory / "context.zip"
    path.write_bytes(pack(("Dockerfile", dockerfile.encode()), dockerfile=False))
    return inspect(path, ArchiveLimits())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("python:3.11-slim", "microvmd base alias python:3.11-slim microvmd/debian:12"),
        ("NoSuch", "no valid image name"),
    ],
)
@pytest.mark.anyio
async def test_an_image_that_nothing_serves_is_told_before_anything_is_made(
    tmp_path: Path, name: str, words: str
) -> None:
    archive = artifact(tmp_path, f"FROM scratch\nCOPY --from={name} /a /a\n")
    with pytest.raises(BuildFailed, match=words) as caught:
        await build_rootfs(
            archive, output_dir=tmp_path / "out", log=print, options=options(tmp_path)
        )
    assert caught.value.code == "CONTAINER_BUILD_FAILED"
    assert not (tmp_path / "builder").exists()


@dataclass
class Workshop:
    """In memory: gives the exit codes it was made with, one for each run; then it is unfit."""

    codes: list[int]
    forgotten: int = 0

    def base_path(self, store: ImageStore, position: int) -> str:
        return str(position)

    def complete(self, job: Job) -> Job:
        return job

    async def run(self, order: Order, log: Log) -> int:
        if not self.codes:
            raise Unenclosed
        return self.codes.pop(0)

    async def forget_layers(self, order: Order) -> bool:
        self.forgotten += 1
        return True


def run_with(directory: Path, shop: Workshop, *, warm: bool) -> list[str]:
    lines: list[str] = []
    done = replace(order(directory, b"", 0, {}), layers=directory / "layers" / "1" / "key")
    done.layers.parent.mkdir(parents=True)
    if warm:
        done.layers.mkdir()
    asyncio.run(_run(done, BuildOptions("1", directory, shop), lines.append))
    return lines


def test_a_full_cache_is_dropped_and_the_build_tried_again(tmp_path: Path) -> None:
    shop = Workshop([job.EXIT_FULL, 0])
    assert "the layer cache is full" in run_with(tmp_path, shop, warm=True)[0]
    assert (shop.codes, shop.forgotten) == ([], 1)


def test_a_build_that_alone_fills_its_disk_fails(tmp_path: Path) -> None:
    shop = Workshop([job.EXIT_FULL])
    with pytest.raises(BuildFailed, match="DISK_STORAGE_FULL: The build needs more disk"):
        run_with(tmp_path, shop, warm=False)
    assert shop.forgotten == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (job.EXIT_FAILED, "The container image build failed."),
        (job.EXIT_TOO_LARGE, "DISK_STORAGE_FULL: The image is larger than its disk."),
        (job.EXIT_UNPACK, "ARCHIVE_INVALID: The archive cannot be unpacked."),
        (1, "INTERNAL_PLATFORM_ERROR: The builder ended unexpectedly."),
        (-9, "INTERNAL_PLATFORM_ERROR: The builder ended unexpectedly."),
    ],
)
def test_every_way_to_end_has_a_reason(tmp_path: Path, code: int, reason: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        run_with(tmp_path, Workshop([code]), warm=False)
    assert caught.value.reason == reason


def test_an_isolation_that_cannot_keep_to_a_connector_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"build\.isolation=microvm"):
        run_with(tmp_path, Workshop([]), warm=False)


@pytest.mark.parametrize(
    ("name", "registries", "reason"),
    [
        ("other.example/x", ("docker.io",), "registry other.example is not one of"),
        ("docker.io.evil.example/x", ("docker.io",), "not one of those that are allowed"),
        ("python:3", ("registry.example",), "registry docker.io is not one of"),
        ("python:3", (), "no registry is allowed"),
        ("oci:/build/layout", ("docker.io",), "no valid image name"),
        ("docker://docker.io/x", ("docker.io",), "no valid image name"),
        ("/build/layout", ("docker.io",), "no valid image name"),
        ("localhost/microvmd-result", ("docker.io",), "registry localhost is not one of"),
    ],
)
def test_only_the_registries_that_are_allowed_are_asked(
    tmp_path: Path, name: str, registries: tuple[str, ...], reason: str
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(pack(("Dockerfile", f"FROM {name}\n".encode()), dockerfile=False))
    archive = inspect(path, ArchiveLimits())
    chosen = BuildOptions("1", tmp_path, NamespaceWorkshop(), registries=registries)
    with pytest.raises(BuildFailed, match=reason):
        asyncio.run(build_rootfs(archive, output_dir=tmp_path, log=print, options=chosen))
