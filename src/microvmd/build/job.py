"""What the program inside the builder is told: the contract between ``builder`` and ``inside``.

``inside.py`` runs without the rest of microvmd, so it reads these members by name from JSON.
"""

import json
import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

EXIT_FAILED = 10
"""A step of the Dockerfile failed."""
EXIT_FULL = 11
"""The disk of the layer store has no room left."""
EXIT_UNPACK = 12
"""The zip cannot be unpacked after all."""
EXIT_TOO_LARGE = 13
"""The finished image does not fit on its disk."""
RESULT_BYTES = 1 << 20
"""Size of the result: JSON, filled up with spaces."""

CA_FOLDER = "/run/build-ca"
"""Where RUN steps see the operator's CA bundle, as ``ca.crt``."""

_NOFILE, _NPROC = 16384, 32768


@dataclass(frozen=True, slots=True)
class Mount:
    """A disk that ``inside`` mounts before it works, and unmounts after."""

    source: str
    target: str
    kind: str
    options: str


@dataclass(frozen=True, slots=True)
class Job:
    """One build. Paths are those inside the builder; ``lines`` replaces Dockerfile lines from 0.

    ``files_limit`` bounds the bytes of all files of the image, holes included.
    """

    archive_size: int
    lines: Mapping[int, str]
    names: Mapping[str, str]
    bases: tuple[str, ...]
    pull: Literal["never", "missing"]
    timestamp: int
    uuid: str
    volumes: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    archive: str = "/build/archive.zip"
    output: str = "/build/output"
    result: str = "/build/result"
    files_limit: int = 20 << 30
    ulimits: tuple[str, ...] = field(default_factory=lambda: ulimits())

    def to_json(self) -> str:
        """Return the job as ``inside`` reads it."""
        return json.dumps(asdict(self))


def ulimits() -> tuple[str, ...]:
    """Limits for RUN steps: buildah would ask for a million, which not every host grants."""
    nofile = _within(_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    nproc = _within(_NPROC, resource.getrlimit(resource.RLIMIT_NPROC)[1])
    return (f"nofile={nofile}:{nofile}", f"nproc={nproc}:{nproc}")


def _within(wish: int, hard: int) -> int:
    return wish if hard == resource.RLIM_INFINITY else min(wish, hard)
