"""How far a log has been delivered, on disk: a restart goes on there.

What was sent right before a crash may be sent twice; nothing is left out.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from microvmd.messages.node import LogDelivery, LogTarget

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One log on its way. `key` names whose it is: a MicroVM or a build."""

    key: str
    log: LogTarget
    to: LogDelivery
    position: int

    def write(self, directory: Path) -> None:
        path = _path(directory, self.key)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)))
        fresh.rename(path)

    def remove(self, directory: Path) -> None:
        _path(directory, self.key).unlink(missing_ok=True)


def read_all(directory: Path) -> Iterator[DeliveryRecord]:
    """What earlier runs have not finished; what a crash broke is removed."""
    for path in sorted(directory.iterdir()):
        if path.suffix != ".json":
            path.unlink()
            continue
        try:
            fields = json.loads(path.read_text())
            record = DeliveryRecord(
                fields["key"],
                LogTarget(**fields["log"]),
                LogDelivery(**fields["to"]),
                int(fields["position"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            log.warning("delivery.record_broken", path=str(path), error=str(error))
            path.unlink()
            continue
        yield record


def _path(directory: Path, key: str) -> Path:
    return directory / f"{key}.json"
