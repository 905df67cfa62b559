"""The builder's own root file system: Debian with buildah, made once and kept by its recipe.

The release on the machine may be too old for the tools (Debian 12's buildah has no heredocs), and
nothing of another release belongs on the machine itself. So the tools live in a root of their own,
which is entered in namespaces or booted in a build microVM. It is never changed by a build.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from microvmd.build import debian
from microvmd.build.debian import Recipe
from microvmd.build.enclosure import Bind, Enclosure
from microvmd.build.lines import LineLog
from microvmd.build.lock import exclusive
from microvmd.build.oci import Layout
from microvmd.vmm.process import run

INSIDE = "/usr/local/lib/microvmd/inside.py"
PYTHON = "/usr/bin/python3"
_PLACES = ("archive.zip", "store", "bases", "output", "result", "extras", "layout")
_ANY_UUID = "00000000-0000-4000-8000-000000000000"  # equal content, equal bytes
_LOCK_TIMEOUT = 3600.0
_RECIPE = Recipe(
    suite="trixie",
    variant="essential",
    packages=(
        "buildah",
        "ca-certificates",
        "crun",
        "e2fsprogs",
        "erofs-utils",
        "mount",
        "netavark",  # buildah asks for it even with the host's network
        "python3",
    ),
    excluded_paths=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"),
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A ready builder root. ``erofs`` is the same root as a disk for build microVMs."""

    root: Path
    erofs: Path
    digest: str


@dataclass(frozen=True, slots=True)
class ImageStore:
    """A base image unpacked once into a read-only store of the container engine.

    Builds of every account use it in place, so no build has to unpack its base.
    """

    path: Path
    erofs: Path


async def prepare(cache: Path, log: Callable[[str], None]) -> Toolchain:
    """Return the builder root below ``cache``/builder, making it first if it is missing."""
    digest = _recipe_digest()
    home = cache / "builder" / digest
    toolchain = Toolchain(home / "root", home / "root.erofs", digest)
    if toolchain.erofs.exists():
        return toolchain
    async with _building(home, "the builder root", log) as scratch:
        if scratch is not None:
            log("making the builder root from Debian packages (once, about a minute)")
            await debian.make_root(_RECIPE, scratch / "root", log)
            _furnish(scratch / "root")
            await _pack(scratch / "root", scratch / "root.erofs", compress=True)
    return toolchain


async def image_store(
    toolchain: Toolchain, layout: Layout, cache: Path, log: Callable[[str], None]
) -> ImageStore:
    """Return the image store of a base image, unpacking it first if that was not done yet."""
    home = cache / "bases" / "stores" / layout.digest
    store = ImageStore(home / "store", home / "store.erofs")
    if store.erofs.exists():
        return store
    async with _building(home, f"base image {layout.digest[:12]}", log) as scratch:
        if scratch is not None:
            log(f"unpacking base image {layout.digest[:12]} (once)")
            (scratch / "store").mkdir()
            await _pull(toolchain, layout, scratch / "store", log)
            await _pack(scratch / "store", scratch / "store.erofs", compress=False)
    return store


@contextlib.asynccontextmanager
async def _building(
    home: Path, name: str, log: Callable[[str], None]
) -> AsyncIterator[Path | None]:
    """Yield a scratch folder that becomes ``home``, or None when another builder was faster."""
    lock = home.with_name(home.name + ".lock")
    waiting = f"waiting for {name}, which another build is making"
    async with exclusive(lock, timeout_seconds=_LOCK_TIMEOUT, on_wait=lambda: log(waiting)):
        scratch = _scratch_for(home)
        if scratch is None:
            yield None
            return
        try:
            yield scratch
            await asyncio.to_thread(_settle, scratch, home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _scratch_for(home: Path) -> Path | None:
    """Make the scratch folder; one that is there was left by a build that died with its lock."""
    if home.exists():
        return None
    scratch = home.with_name(f".making-{home.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    return scratch


def _settle(scratch: Path, home: Path) -> None:
    """Rename only what is on the disk: after a crash the folder must be whole or not there."""
    os.sync()
    scratch.chmod(0o755)
    scratch.rename(home)


def _recipe_digest() -> str:
    text = json.dumps([asdict(_RECIPE), _PLACES, _inside_source()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _inside_source() -> str:
    return Path(__file__).with_name("inside.py").read_text()


def _furnish(root: Path) -> None:
    """Put our program, the mount points and the resolver link into the root."""
    program = root / INSIDE[1:]
    program.parent.mkdir(parents=True)
    program.write_text(_inside_source())
    for place in _PLACES:
        path = root / "build" / place
        path.parent.mkdir(exist_ok=True)
        if place in ("archive.zip", "output", "result"):
            path.touch()
        else:
            path.mkdir()
    resolver = root / "etc" / "resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.symlink_to("/run/resolv.conf")


async def _pull(
    toolchain: Toolchain, layout: Layout, store: Path, log: Callable[[str], None]
) -> None:
    enclosure = Enclosure(
        root=os.fspath(toolchain.root),
        binds=(
            Bind(os.fspath(layout.path), "/build/layout"),
            Bind(os.fspath(store), "/build/store", writable=True),
        ),
        resolv_conf="",
    )
    command = ["/usr/bin/buildah", "--storage-driver", "overlay", "--root", "/build/store"]
    command += ["--runroot", "/run/containers", "pull", "oci:/build/layout"]
    lines = LineLog(log)
    await run(enclosure.argv(command), timeout=1800, listener=lines.feed)
    lines.close()


async def _pack(folder: Path, image: Path, *, compress: bool) -> None:
    """Pack a folder of ours as erofs. The version of mkfs.erofs on the machine is good enough."""
    argv = ["mkfs.erofs", "--quiet", "-T", str(debian.EPOCH), "-U", _ANY_UUID]
    argv += ["-zlz4"] if compress else []
    argv += [os.fspath(image), os.fspath(folder)]
    await run(argv, timeout=600)
