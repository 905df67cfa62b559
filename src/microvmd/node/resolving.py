"""What one guest may ask its DNS stub, and how the answers open its packet filter."""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

from microvmd.model.egress import NOTHING, Egress, Reach
from microvmd.node import nftables

SHORTEST = 60
LONGEST = 3600
SLACK = 30
"""Seconds: addresses are open as long as an answer lasts, within these bounds, and a little more
than a guest may keep it."""


class Resolving:
    """The policy of one guest's stub (``dns.Policy``). ``egress`` is what it may reach now,
    None where that is not known; ``load`` loads statements into its packet filter."""

    def __init__(
        self,
        subnet: IPv4Network,
        egress: Callable[[], Egress | None],
        load: Callable[[str], Awaitable[None]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subnet = subnet
        self._egress = egress
        self._load = load
        self._now = now
        self._open: dict[tuple[Reach, IPv4Address], float] = {}

    @property
    def _known(self) -> Egress:
        return self._egress() or NOTHING

    @property
    def any_name(self) -> bool:
        egress = self._egress()
        return egress is None or egress.any_name

    def opens(self, name: str) -> bool:
        return any(reach.takes(name) for reach in self._known.named)

    def refuses(self, address: IPv4Address, name: str | None) -> bool:
        return nftables.denied(address, self._subnet, self._known, name)

    async def pin(self, name: str, addresses: Mapping[IPv4Address, int]) -> None:
        """Open these addresses, which the name has for so many seconds."""
        now = self._now()
        self._open = {key: until for key, until in self._open.items() if until > now}
        for reach in self._known.named:
            if not reach.takes(name):
                continue
            wanted = dict(self._wanted(reach, addresses, now))
            if wanted:
                await self._load(nftables.pin_update(reach, wanted))
                for address, seconds in wanted.items():
                    self._open[reach, address] = now + seconds

    def forget(self) -> None:
        """The packet filter was changed: it may not hold any more what was opened."""
        self._open.clear()

    def _wanted(
        self, reach: Reach, addresses: Mapping[IPv4Address, int], now: float
    ) -> Iterator[tuple[IPv4Address, int]]:
        """What is not open for long enough. A name that is asked for again and again costs no
        process each time."""
        for address, seconds in addresses.items():
            if address in reach.network:
                until = self._open.get((reach, address), now)
                if until < now + min(seconds, LONGEST) + SLACK / 2:
                    yield address, min(max(seconds, SHORTEST), LONGEST) + SLACK
