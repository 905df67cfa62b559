"""The base images that a FROM line can name without any registry.

A base is an OCI layout below ``images/<digest>``, known by one or more names; an alias is a name
that stands for another, so that ``FROM python:3.11-slim`` can mean a local base. A few names are
recipes: they are made from the machine's own Debian mirror when a build first asks for them.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microvmd.build import debian, oci
from microvmd.build.debian import Recipe
from microvmd.build.lock import exclusive

Log = Callable[[str], None]
_LOCK_TIMEOUT = 3600.0
_ALIAS_DEPTH = 8
_STALE_SECONDS = 6 * 3600
_REFERENCE = re.compile(
    r"(?:(?P<domain>localhost|[\w-]+(?:\.[\w-]+)+(?::\d+)?|[\w-]+:\d+|localhost:\d+)/)?"
    r"(?P<path>[a-z0-9]+(?:(?:[._/]|__|-+)[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# pip then installs into the system itself, which is what a Dockerfile of one application means.
_FREE_PIP = 'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED'


class UnknownBase(Exception):
    """No local base, alias or recipe has this name."""


class InvalidName(Exception):
    """Not a name that an image can have."""


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """A base made from Debian packages on first use."""

    root: Recipe
    config: Mapping[str, Any]


def _debian(suite: str, *packages: str, hooks: tuple[str, ...] = ()) -> Recipe:
    return Recipe(suite=suite, variant="minbase", packages=packages, hooks=hooks)


RECIPES: Mapping[str, BaseRecipe] = {
    "microvmd/debian:12": BaseRecipe(
        _debian("bookworm", "ca-certificates"), {"Env": [_PATH], "Cmd": ["bash"]}
    ),
    "microvmd/debian:13": BaseRecipe(
        _debian("trixie", "ca-certificates"), {"Env": [_PATH], "Cmd": ["bash"]}
    ),
    "microvmd/python:3": BaseRecipe(
        _debian(
            "trixie",
            "ca-certificates",
            "python-is-python3",
            "python3",
            "python3-pip",
            "python3-venv",
            hooks=(_FREE_PIP,),
        ),
        {
            "Env": [_PATH, "LANG=C.UTF-8", "PIP_ROOT_USER_ACTION=ignore", "PIP_NO_CACHE_DIR=1"],
            "Cmd": ["python3"],
        },
    ),
    "microvmd/node:20": BaseRecipe(
        _debian("trixie", "ca-certificates", "nodejs", "npm"), {"Env": [_PATH], "Cmd": ["node"]}
    ),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One name of the store, for display. ``target`` is set for an alias, ``digest`` for a base."""

    name: str
    digest: str | None
    target: str | None
    size: int | None


def normalise(name: str) -> str:
    """Return the full form of an image name: registry, path, tag or digest. Raises InvalidName."""
    found = _REFERENCE.fullmatch(name) if len(name) <= 512 else None
    if not found:
        raise InvalidName(f"{name[:200]!r} is not an image name")
    path = found["path"]
    domain = found["domain"] or "docker.io"
    if domain in ("docker.io", "index.docker.io"):
        domain = "docker.io"
        path = path if "/" in path else f"library/{path}"
    if found["digest"]:
        return f"{domain}/{path}@{found['digest']}"
    return f"{domain}/{path}:{found['tag'] or 'latest'}"


class BaseStore:
    """The bases below ``folder``. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names_file = folder / "names.json"
        self._architecture = debian.oci_architecture()

    async def add(self, name: str, source: Path, config: Mapping[str, Any] | None = None) -> str:
        """Add a root tarball, an OCI layout folder or an OCI archive; return its digest.

        ``config`` is the OCI image configuration for a plain tarball.
        """
        full = normalise(name)
        async with self._scratch() as scratch:
            layout = await asyncio.to_thread(self._import, source, scratch, config)
            await self._keep(full, layout)
        return layout.digest

    async def alias(self, name: str, target: str) -> None:
        """Let ``name`` stand for ``target``, a base or recipe. Raises UnknownBase."""
        full, full_target = normalise(name), normalise(target)
        async with self._changing() as names:
            if self._follow(full_target, names) is None:
                raise UnknownBase(f"there is no base named {target}")
            names[full] = {"alias": full_target}
            if self._follow(full, names) is None:
                raise InvalidName(f"{name} would stand for itself")

    async def remove(self, name: str) -> None:
        """Forget a name; the image goes when no name is left. Raises UnknownBase."""
        full = normalise(name)
        async with self._changing() as names:
            if full not in names:
                raise UnknownBase(f"there is no base named {name}")
            del names[full]
            kept = {entry["digest"] for entry in names.values() if "digest" in entry}
            for image in self._images():
                if image.name not in kept:
                    shutil.rmtree(image, ignore_errors=True)
                    store = self._folder / "stores" / image.name
                    shutil.rmtree(store, ignore_errors=True)

    def list(self) -> tuple[Listed, ...]:
        """Every name that a FROM line can use here, recipes not made yet included."""
        names = self._read_names()
        listed = [self._listed(name, entry) for name, entry in names.items()]
        missing = [name for name in map(normalise, RECIPES) if name not in names]
        listed += [Listed(name, None, None, None) for name in missing]
        return tuple(sorted(listed, key=lambda one: one.name))

    async def debootstrap(
        self,
        name: str,
        suite: str,
        packages: tuple[str, ...],
        log: Log,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Make a base of Debian packages; return its digest. Raises DebianUnavailable."""
        recipe = BaseRecipe(
            _debian(suite, *packages), config or {"Env": [_PATH], "Cmd": ["/bin/sh"]}
        )
        async with self._making(normalise(name), log):
            return (await self._make(normalise(name), recipe, log)).digest

    def knows(self, name: str) -> bool:
        """Whether ``ensure`` would find or make this name."""
        try:
            full = normalise(name)
        except InvalidName:
            return False
        return self._follow(full, self._read_names()) is not None

    async def ensure(self, name: str, log: Log) -> oci.Layout:
        """Return the image for a name in a FROM line, made first if it is a recipe."""
        full = self._follow(normalise(name), self._read_names())
        if full is None:
            raise UnknownBase(f"there is no base named {name}")
        layout = self._local(full)
        if layout is not None:
            return layout
        async with self._making(full, log):
            return self._local(full) or await self._make(full, _recipe(full), log)

    async def _make(self, full: str, recipe: BaseRecipe, log: Log) -> oci.Layout:
        async with self._scratch() as scratch:
            log(f"making base image {full} from Debian packages (once)")
            tarball = scratch / "root.tar"
            await debian.make_root(recipe.root, tarball, log)
            layout = await asyncio.to_thread(
                oci.write_layout, tarball, scratch / "layout", self._architecture, recipe.config
            )
            return await self._keep(full, layout)

    def _import(self, source: Path, scratch: Path, config: Mapping[str, Any] | None) -> oci.Layout:
        target = scratch / "layout"
        if source.is_dir():
            return oci.copy_layout(source, target, self._architecture)
        if oci.is_archive(source):
            oci.unpack_archive(source, scratch / "archive")
            return oci.copy_layout(scratch / "archive", target, self._architecture)
        oci.plain_tar(source, scratch / "root.tar")
        default = {"Env": [_PATH], "Cmd": ["/bin/sh"]}
        return oci.write_layout(scratch / "root.tar", target, self._architecture, config or default)

    async def _keep(self, full: str, layout: oci.Layout) -> oci.Layout:
        """Move a finished layout into the store and give it its name."""
        place = self._folder / "images" / layout.digest
        async with self._changing() as names:
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(os.sync)
                layout.path.rename(place)
            names[full] = {"digest": layout.digest}
        return oci.read_layout(place)

    def _local(self, full: str) -> oci.Layout | None:
        entry = self._read_names().get(full, {})
        place = self._folder / "images" / entry.get("digest", "-")
        return oci.read_layout(place) if place.is_dir() else None

    def _follow(self, full: str, names: Mapping[str, dict[str, str]]) -> str | None:
        for _ in range(_ALIAS_DEPTH):
            entry = names.get(full)
            if entry is None:
                return full if _recipe_or_none(full) else None
            if "digest" in entry:
                return full
            full = entry["alias"]
        return None

    def _images(self) -> tuple[Path, ...]:
        folder = self._folder / "images"
        return tuple(folder.iterdir()) if folder.is_dir() else ()

    def _listed(self, name: str, entry: Mapping[str, str]) -> Listed:
        if "alias" in entry:
            return Listed(name, None, entry["alias"], None)
        layout = self._local(name)
        return Listed(name, entry["digest"], None, layout.size if layout else None)

    def _read_names(self) -> dict[str, dict[str, str]]:
        try:
            names: dict[str, dict[str, str]] = json.loads(self._names_file.read_text())
        except FileNotFoundError:
            return {}
        return names

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncIterator[dict[str, dict[str, str]]]:
        """Hold the names, write them back as a whole when the block ends well."""
        async with exclusive(self._folder / "names.lock", timeout_seconds=60):
            names = self._read_names()
            yield names
            draft = self._names_file.with_suffix(".new")
            with draft.open("w") as file:
                json.dump(names, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self._names_file)

    @contextlib.asynccontextmanager
    async def _making(self, full: str, log: Log) -> AsyncIterator[None]:
        lock = self._folder / "locks" / full.replace("/", "+")
        async with exclusive(
            lock,
            timeout_seconds=_LOCK_TIMEOUT,
            on_wait=lambda: log(f"waiting for base image {full}, which another build is making"),
        ):
            yield

    @contextlib.asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        self._folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(_drop_stale, self._folder)
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=self._folder))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _drop_stale(folder: Path) -> None:
    """Remove scratch folders of processes that were killed: none is in use for so long."""
    for scratch in folder.glob(".making-*"):
        with contextlib.suppress(FileNotFoundError):
            if scratch.stat().st_mtime < time.time() - _STALE_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


def _recipe_or_none(full: str) -> BaseRecipe | None:
    return {normalise(name): recipe for name, recipe in RECIPES.items()}.get(full)


def _recipe(full: str) -> BaseRecipe:
    recipe = _recipe_or_none(full)
    if recipe is None:
        raise UnknownBase(f"the image of base {full} is missing; add it again")
    return recipe
