"""Names and addresses of networks: which /30 of the instance's subnet belongs to which of them.

Two instances on one machine differ in prefix, subnet and run directory and so never meet.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,5}[a-z]|[a-z]")
_SLOT_SIZE = 4  # a /30: network, our end, the namespace's end, broadcast
_LARGEST = 1 << 16


class NetworkError(Exception):
    """The host's network cannot be set up as the settings ask, or has no room left."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What tells one instance's networks from another's.

    `prefix` starts every interface name; it must end in a letter, so that the slot number is clear.
    """

    run: Path
    prefix: str = "mvm"
    subnet: ipaddress.IPv4Network = field(
        default_factory=lambda: ipaddress.IPv4Network("10.200.0.0/16")
    )
    ready: int = 4
    """Namespaces kept in store."""
    connections: int = 2000
    """Outgoing connections that one guest may hold at a time."""
    connection_rate: int = 200
    """Outgoing connections that one guest may begin per second, and twice as many at once."""
    bandwidth_mbit: int = 500
    """Mbit per second that one guest may send, and receive; 0 is no limit."""
    resolvers: tuple[str, ...] = ()
    """DNS servers asked by the stub; empty: those of /etc/resolv.conf."""

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise NetworkError(f"prefix {self.prefix!r}: 1-7 of a-z and 0-9, ending in a letter")
        if not _SLOT_SIZE <= self.subnet.num_addresses <= _LARGEST * _SLOT_SIZE:
            raise NetworkError(f"subnet {self.subnet}: between /14 and /30")

    @property
    def namespaces(self) -> Path:
        return self.run / "netns"

    @property
    def guards(self) -> Path:
        """Directories of name guards, by network."""
        return self.run / "guards"

    def slot(self, index: int) -> "Slot":
        base = self.subnet.network_address + index * _SLOT_SIZE
        return Slot(index, f"{self.prefix}{index}", str(base + 1), str(base + 2))

    def index_of(self, name: str) -> int:
        """The slot number in a network's name. Raises NetworkError for a foreign name."""
        number = name.removeprefix(self.prefix)
        if number == name or not number.isascii() or not number.isdigit():
            raise NetworkError(f"{name!r} is no network of prefix {self.prefix!r}")
        index = int(number)
        if index >= self.capacity or str(index) != number:
            raise NetworkError(f"{name!r} is outside of {self.subnet}")
        return index

    def owns(self, name: str) -> bool:
        """Whether it is the name of a network (and of its veth) of this instance."""
        try:
            self.index_of(name)
        except NetworkError:
            return False
        return True

    @property
    def capacity(self) -> int:
        return self.subnet.num_addresses // _SLOT_SIZE


@dataclass(frozen=True, slots=True)
class Slot:
    """One /30: the name of the veth's end in the root namespace, and both addresses."""

    index: int
    name: str
    root_address: str
    edge_address: str


class Slots:
    """Gives each slot to one network at a time, and comes back to a freed one as late as it can.

    A connection or route of the former tenant that somebody failed to drop must meet nobody.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        taken: Iterable[int] = (),
        occupied: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """`occupied` tells whether an interface of that name is (still) there."""
        self._settings = settings
        self._taken = set(taken)
        self._occupied = occupied
        self._next = max(self._taken, default=-1) + 1

    def take(self) -> Slot:
        """Raises NetworkError when every slot is in use."""
        capacity = self._settings.capacity
        for step in range(capacity):
            slot = self._settings.slot((self._next + step) % capacity)
            if slot.index not in self._taken and not self._occupied(slot.name):
                self._taken.add(slot.index)
                self._next = (slot.index + 1) % capacity
                return slot
        raise NetworkError(f"no address left in {self._settings.subnet}")

    def holds(self, index: int) -> bool:
        return index in self._taken

    def free(self, index: int) -> None:
        self._taken.discard(index)
