"""Refuses at once a role that cannot be assumed, so that nothing begins which would need it.

Whether it can be is asked once and remembered for a while: a run costs no call. Where nobody can
tell now, the answer is yes: an outage of STS refuses no run, it delays credentials.
"""

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from microvmd.model.errors import NotFound, ValidationError

CANNOT = "We were unable to assume the role provided"
"""Recorded for CreateMicrovmImage."""
REMEMBERED_S = 300.0
_MOST = 4096

Assumable = Callable[[str], Awaitable[bool]]
"""Whether the service may assume a role: False only where that is certain not to be so."""


class AssumableRoles:
    """``clock`` is monotonic. Without ``assumable`` only the account of a role is looked at."""

    def __init__(
        self,
        assumable: Assumable | None = None,
        clock: Callable[[], float] | None = None,
        *,
        remembered_s: float = REMEMBERED_S,
    ) -> None:
        self._assumable = assumable
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._remembered_s = remembered_s
        self._good_until: dict[str, float] = {}
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def check_build(self, account: str, role_arn: str) -> None:
        """Raise the recorded refusal of CreateMicrovmImage."""
        if not await self._can(account, role_arn):
            raise ValidationError(CANNOT)

    async def check_execution(self, account: str, role_arn: str | None) -> None:
        """Raise NotFound, as the documentation of RunMicrovm says of a role that is missing."""
        if role_arn is not None and not await self._can(account, role_arn):
            raise NotFound(CANNOT)

    async def _can(self, account: str, role_arn: str) -> bool:
        if role_arn.split(":")[4:5] != [account]:
            # A role of another account would give its rights away.
            return False
        if self._assumable is None or self._known(role_arn):
            return True
        async with self._asking.setdefault(role_arn, asyncio.Lock()):
            # Many may have waited for the same answer.
            if not self._known(role_arn):
                if not await self._assumable(role_arn):
                    return False
                self._remember(role_arn)
        return True

    def _known(self, role_arn: str) -> bool:
        return self._good_until.get(role_arn, 0.0) > self._clock()

    def _remember(self, role_arn: str) -> None:
        self._good_until.pop(role_arn, None)
        self._good_until[role_arn] = self._clock() + self._remembered_s
        while len(self._good_until) > _MOST:
            self._good_until.pop(next(iter(self._good_until)))
