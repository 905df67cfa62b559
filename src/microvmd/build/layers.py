"""The layer stores of an account: what makes the second build of a Dockerfile fast.

A store belongs to one account, for whoever writes it can poison later builds, and to one set of
base images, for its layers lie upon theirs: a base that changes leads to a fresh store by itself.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from microvmd.build.lock import if_free

KEPT = 4
"""Stores of one account; the one used longest ago goes when there are more."""


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
    return existed


def prune(account: Path, kept: int = KEPT) -> list[Path]:
    """Remove the stores of an account used longest ago, but none in use; return them."""
    stores = [path for path in account.iterdir() if path.is_dir()]
    stores.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    removed: list[Path] = []
    for store in stores[kept:]:
        with if_free(lock_of(store)) as free:
            if free:
                shutil.rmtree(store, ignore_errors=True)
                removed.append(store)
    return removed
