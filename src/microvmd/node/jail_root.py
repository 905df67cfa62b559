"""The file system that all jails share: a VMM, its libraries, its firmware, and placeholders.

Made once per build of the VMM and kept under `cache/<key>`; the key covers every file that went
in, so an upgrade of the VMM or of a library makes a new one. Jails mount it read-only and bind the
files of one VM over the placeholders in `machine/`.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from microvmd.vmm.machine import Surroundings
from microvmd.vmm.process import run

LAYOUT = "3"
"""Raise it when the tree below changes."""
DATA_DIRECTORIES = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))
FIRMWARE_PLACE = "/usr/share/qemu"
STATIC = re.compile(r"not a dynamic executable|statically linked")
LIBRARY = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$")


class JailRootFailed(Exception):
    """A file that the VMM needs is not on this machine."""


async def prepare(cache: Path, surroundings: Surroundings) -> Path:
    """The root for this VMM, made if it is not there yet."""
    program = surroundings.program
    listed = await run(["ldd", os.fspath(program)], timeout=30, check=False)
    listing = (listed.stdout + listed.stderr).decode(errors="replace")
    needed = {} if STATIC.search(listing) else libraries(listing)
    files = {
        os.fspath(surroundings.place): program,
        **needed,
        **_firmware(surroundings.firmware),
    }
    return await asyncio.to_thread(_make, cache, files, surroundings)


def libraries(listing: str) -> dict[str, Path]:
    """Places in the jail and their sources, from what `ldd` prints.

    All libraries go to one directory: a jail has no cache of the linker that would list others.
    """
    found = [match.groups() for line in listing.splitlines() if (match := LIBRARY.match(line))]
    directory = next(
        (Path(path).parent for name, path in found if name and name.startswith("libc.so")), None
    )
    if directory is None:
        raise JailRootFailed("the VMM is not a dynamic program of this machine's C library")
    return {
        # Without a name it is the dynamic linker, which the program names by its full path.
        (os.fspath(directory / name) if name else path): Path(path)
        for name, path in found
    }


def _firmware(names: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in names:
        source = next((path / name for path in DATA_DIRECTORIES if (path / name).exists()), None)
        if source is None:
            raise JailRootFailed(f"firmware {name} is in none of {DATA_DIRECTORIES}")
        found[f"{FIRMWARE_PLACE}/{name}"] = source
    return found


def _make(cache: Path, files: dict[str, Path], surroundings: Surroundings) -> Path:
    root = cache / _key(files, surroundings)
    if root.exists():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
    try:
        for target, source in files.items():
            _copy(source, half / target.lstrip("/"))
        # Whoever may execute a program but not read it cannot be dumped: no memory of a guest in
        # what a core_pattern of the host catches, whatever the limits say.
        (half / os.fspath(surroundings.place).lstrip("/")).chmod(0o511)
        (half / "dev").mkdir()
        for target in surroundings.files:
            placeholder = half / target.lstrip("/")
            placeholder.parent.mkdir(exist_ok=True)
            placeholder.touch()
        if surroundings.scratch:
            (half / surroundings.scratch.lstrip("/")).mkdir()
        for target, text in surroundings.texts.items():
            file = half / target.lstrip("/")
            file.parent.mkdir(parents=True)
            file.write_text(text)
        half.chmod(0o755)
        try:
            half.rename(root)
        except OSError:  # another node on this machine was faster
            if not root.exists():
                raise
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return root


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as original, target.open("xb") as copy:
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fsync(copy.fileno())
    target.chmod(0o555)


def _key(files: dict[str, Path], surroundings: Surroundings) -> str:
    digest = hashlib.sha256(LAYOUT.encode())
    digest.update(repr((surroundings.files, surroundings.scratch, surroundings.texts)).encode())
    for target, source in sorted(files.items()):
        stat = source.stat()
        digest.update(f"{target}\0{source}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
