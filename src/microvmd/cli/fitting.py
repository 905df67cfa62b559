"""Which image versions this machine can restore, for ``microvmd doctor``."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from microvmd.messages.node import VersionKey
from microvmd.node.snapshot import MANIFEST, SnapshotBroken, SnapshotForeign, Stamp, load


def differences(images: Path, here: Collection[Stamp]) -> dict[VersionKey, str | None]:
    """For each version, without a build, why none of its snapshots fits; None where one does.

    ``here`` is what snapshots would say that are made now, that of the node's own VMM first. What
    is damaged is left out: its runs tell, and ``doctor`` does not read whole files.
    """
    found: dict[VersionKey, str | None] = {}
    for version, difference in _snapshots(images, here):
        if difference is None or version not in found:
            found[version] = difference
    return found


def _snapshots(images: Path, here: Collection[Stamp]) -> Iterator[tuple[VersionKey, str | None]]:
    own, *others = here
    for manifest in sorted(images.glob(f"*/*/*/{MANIFEST}")):
        place = manifest.parent
        snapshot = VersionKey.at(place.parent.parent.name, place.parent.name, place.name)
        version = replace(snapshot, build="")
        try:
            load(place, stamp=own, others=others)
        except SnapshotForeign as foreign:
            yield version, foreign.difference
        except SnapshotBroken:
            continue
        else:
            yield version, None
