"""The layer stores of an account: what makes the second build of a Dockerfile fast.

A store belongs to one account, for whoever writes it can poison later builds, and to one set of
base images, for its layers lie upon theirs: a base that changes leads to a fresh store by itself.

Stores are bounded in bytes, for one account and for all; what was used longest ago goes first. What
is in a store of namespaces is a Dockerfile's work: its folders may be too deep for any path, so
``rm`` and ``du`` walk them, which go from folder to folder.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from microvmd.build.lock import if_free
from microvmd.vmm.process import run

_WALK_LIMIT = 1800.0


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """Bytes on the node's disk that the stores of one account, and all stores, may keep."""

    account_bytes: int = 20 << 30
    total_bytes: int = 100 << 30


@dataclass(frozen=True, slots=True)
class _Store:
    path: Path
    used_at: float
    size: int


def place(cache: Path, account: str, base_digests: Iterable[str]) -> Path:
    """Return the folder of a layer store; it may not exist yet."""
    text = "\n".join(sorted(base_digests))
    return cache / "layers" / account / hashlib.sha256(text.encode()).hexdigest()[:16]


def lock_of(store: Path) -> Path:
    """Return the lock file that whoever uses or removes the store holds."""
    return store.with_name(f"{store.name}.lock")


def mark_used(store: Path) -> bool:
    """Make the store the newest of its account; False if it is new. The caller holds its lock."""
    existed = store.is_dir()
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.utime(store)
    # It is about to grow: however the build ends, it is measured before it counts again.
    _set_note(store, None)
    return existed


async def used_bytes(folder: Path) -> int:
    """Bytes of disk below a folder that something may be writing to."""
    argv = ["du", "-s", "-x", "-B1", os.fspath(folder)]
    done = await run(argv, timeout=_WALK_LIMIT, check=False)
    count = done.stdout.split(maxsplit=1)
    return int(count[0]) if count else 0


async def remove_tree(folder: Path) -> None:
    """Remove a folder that a Dockerfile has filled, however deep; never anything mounted in it."""
    argv = ["rm", "-rf", "--one-file-system", "--", os.fspath(folder)]
    await run(argv, timeout=_WALK_LIMIT, check=False)


async def prune(folder: Path, limits: LayerLimits) -> list[Path]:
    """Remove stores below ``folder``, the parent of the accounts' own, until all are within limits.

    Those used longest ago go first, and none that is in use. Returns what was removed.
    """
    stores = [await _measured(path) for path in _stores(folder)]
    stores.sort(key=lambda store: store.used_at)
    accounts: dict[Path, int] = {}
    for store in stores:
        accounts[store.path.parent] = accounts.get(store.path.parent, 0) + store.size
    total = sum(accounts.values())
    removed: list[Path] = []
    # A store that alone is too large goes before the others would make room for it in vain.
    stores.sort(key=lambda store: store.size <= limits.account_bytes)
    for store in stores:
        account = store.path.parent
        if accounts[account] <= limits.account_bytes and total <= limits.total_bytes:
            continue
        with if_free(lock_of(store.path)) as free:
            if free:
                await remove_tree(store.path)
                _set_note(store.path, None)
                accounts[account] -= store.size
                total -= store.size
                removed.append(store.path)
    return removed


def _stores(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*") if path.is_dir()]


async def _measured(store: Path) -> _Store:
    size = _noted(store)
    if size is None:
        with if_free(lock_of(store)) as free:
            size = await used_bytes(store)
            if free:
                _set_note(store, size)
    return _Store(store, _used_at(store), size)


def _used_at(store: Path) -> float:
    return store.stat().st_mtime


def _noted(store: Path) -> int | None:
    try:
        return int(_note(store).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _set_note(store: Path, size: int | None) -> None:
    if size is None:
        _note(store).unlink(missing_ok=True)
    else:
        _note(store).write_text(str(size))


def _note(store: Path) -> Path:
    """The file that holds the size of a store since its last build."""
    return store.with_name(f"{store.name}.size")
