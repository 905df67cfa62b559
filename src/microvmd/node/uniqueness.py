"""Proof that a restored guest is one of its own: nothing of it is let out before.

All clones of an image wake up with the same memory: the same random numbers to come, the same ids,
the clock of the build. The guest agent mends that (`restored` in ``messages/guest.py``) and reads
back what processes of the guest see now. Here that is compared: names and ids with what was given,
the clock with ours, and a few bytes of the guest's own randomness with those of all other guests of
this node. A guest that fails is not started.
"""

import hashlib
import re
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass

from microvmd.node.guest import GuestFailed, Identity

REMEMBERED = 50_000
"""Samples, 16 bytes each; the oldest is forgotten first."""
BEHIND_NS = 2_000_000_000
AHEAD_NS = 100_000_000
"""Nanoseconds by which a guest's clock may differ from ours, at the moment its answer is read: it
was set before, and both may have waited for a processor meanwhile."""
SAMPLE = re.compile(r"[0-9a-f]{32}")


class NotUnique(GuestFailed):
    """A restored guest is not proven to be one of its own."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a MicroVM is to be: its own, and the same after every resume."""

    hostname: str
    machine_id: str
    boot_id: str

    @classmethod
    def of(cls, microvm_id: str) -> "Given":
        """The boot id cannot be guessed from another one, but it is no secret: it is derived."""
        digest = hashlib.sha256(b"microvmd boot id\0" + microvm_id.encode()).digest()
        return cls(
            hostname=microvm_id,
            machine_id=microvm_id.removeprefix("microvm-").replace("-", ""),
            boot_id=str(uuid.UUID(bytes=digest[:16], version=4)),
        )


class Uniqueness:
    """What guests of this node have shown lately."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._samples: OrderedDict[bytes, str] = OrderedDict()

    def prove(self, given: Given, found: Identity) -> None:
        """Raises NotUnique. Each answer of a guest is for one proof: a sample seen again fails."""
        for name, wanted, seen in (
            ("host name", given.hostname, found.hostname),
            ("machine id", given.machine_id, found.machine_id),
            ("boot id", given.boot_id, found.boot_id),
        ):
            if seen != wanted:
                raise NotUnique(f"the guest has the {name} {seen[:64]!r}, not {wanted}")
        behind = time.time_ns() - found.unix_nanos
        if not -AHEAD_NS <= behind <= BEHIND_NS:
            raise NotUnique(
                f"the guest's clock is {behind / 1e9:.3f} s behind this node's after it was set"
            )
        self._sample(given, found.sample)

    def _sample(self, given: Given, sample: str) -> None:
        if not SAMPLE.fullmatch(sample):
            raise NotUnique("the guest agent gave no random bytes after its reseed")
        key = bytes.fromhex(sample)
        other = self._samples.get(key)
        if other is not None:
            raise NotUnique(
                f"the guest's random numbers are those that {other} had: its reseed did not work"
            )
        self._samples[key] = given.hostname
        while len(self._samples) > self._remembered:
            self._samples.popitem(last=False)
