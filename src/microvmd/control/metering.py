"""What an account used and what that would cost: by MicroVM, by image, or by a tag of images."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from microvmd.control.meter_rows import Used
from microvmd.control.retention import in_batches
from microvmd.control.store import Store, Transaction
from microvmd.model.errors import ValidationError
from microvmd.model.identifiers import ImageArn
from microvmd.model.metering import HOUR_S, Prices, Usage

BATCH = 1000
SWEEP_INTERVAL_S = 3600.0
UNTAGGED = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """``key`` is a MicroVM's id, an image's ARN or a tag's value."""

    key: str
    microvms: int
    usage: Usage
    cost: float


class Metering:
    """``prices`` are the operator's."""

    def __init__(self, store: Store, prices: Prices) -> None:
        self._store = store
        self.prices = prices

    async def lines(self, account: str, since: float, until: float, by: str) -> list[Line]:
        """The dearest first. ``by`` is ``microvm``, ``image`` or ``tag:<key>``; whole hours, the
        first and the last one included. Raises ValidationError."""
        group = _grouping(by)
        first = int(since) // HOUR_S * HOUR_S

        def read(tx: Transaction) -> tuple[list[Used], Mapping[str, Mapping[str, str]]]:
            used = tx.meters.of(account, first, int(until) + 1)
            return used, _tags(tx, used) if by.startswith("tag:") else {}

        used, tags = await self._store.run(read)
        return self._summed(used, lambda one: group(one, tags.get(one.image_arn, {})))

    def _summed(self, used: Sequence[Used], key_of: Callable[[Used], str]) -> list[Line]:
        sums: dict[str, tuple[int, Usage]] = {}
        for one in used:
            count, total = sums.get(key_of(one), (0, Usage()))
            sums[key_of(one)] = (count + 1, total + one.usage)
        lines = [
            Line(key, count, total, self.prices.cost(total)) for key, (count, total) in sums.items()
        ]
        return sorted(lines, key=lambda line: (-line.cost, line.key))


def _grouping(by: str) -> Callable[[Used, Mapping[str, str]], str]:
    if by == "microvm":
        return lambda used, _: used.microvm_id
    if by == "image":
        return lambda used, _: used.image_arn
    if by.startswith("tag:") and len(by) > len("tag:"):
        name = by.removeprefix("tag:")
        return lambda _, tags: tags.get(name, UNTAGGED)
    raise ValidationError("by must be microvm, image or tag:<key>")


def _tags(tx: Transaction, used: Sequence[Used]) -> Mapping[str, Mapping[str, str]]:
    """Tags that the images have now, by ARN."""
    found = {}
    for arn in {one.image_arn for one in used}:
        parsed = ImageArn.parse(arn)
        image = tx.image(parsed.account, parsed.name)
        found[arn] = {} if image is None else image.tags
    return found


async def forget_old_usage(store: Store, retention_s: float, clock: Callable[[], float]) -> None:
    """Run for ever: hours older than ``retention_s`` seconds are removed."""
    while True:
        await _forget_before(store, clock() - retention_s)
        await asyncio.sleep(SWEEP_INTERVAL_S)


async def _forget_before(store: Store, moment: float) -> None:
    await in_batches(store, lambda tx, size: tx.meters.forget(moment, size), BATCH)
