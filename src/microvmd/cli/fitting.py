"""Which image versions this machine can restore, for ``microvmd doctor``."""

from collections.abc import Collection, Iterator
from pathlib import Path

from microvmd.messages.node import VersionKey
from microvmd.node.snapshot import MANIFEST, SnapshotBroken, SnapshotForeign, Stamp, load


def differences(images: Path, here: Collection[Stamp]) -> dict[str, str | None]:
    """For each version, by image and number, why none of its snapshots fits; None where one does.

    ``here`` is what snapshots would say that are made now, that of the node's own VMM first. What
    is damaged is left out: its runs tell, and ``doctor`` does not read whole files.
    """
    found: dict[str, str | None] = {}
    for version, difference in _snapshots(images, here):
        if difference is None or version not in found:
            found[version] = difference
    return found


def _snapshots(images: Path, here: Collection[Stamp]) -> Iterator[tuple[str, str | None]]:
    own, *others = here
    for manifest in sorted(images.glob(f"*/*/*/{MANIFEST}")):
        place = manifest.parent
        key = VersionKey.at(place.parent.parent.name, place.parent.name, place.name)
        version = f"{key.image_name} {key.number}"
        try:
            load(place, stamp=own, others=others)
        except SnapshotForeign as foreign:
            yield version, foreign.difference
        except SnapshotBroken:
            continue
        else:
            yield version, None
