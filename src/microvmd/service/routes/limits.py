"""``GET /microvmd/v1/limits``: what an account may do and have, what it has, what is left.

The right to it is that to Lambda's own call of this kind, ``lambda:GetAccountSettings``. How full
the machine is only the operator reads: to others it would tell what their neighbours do.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microvmd.api.rates import Rates
from microvmd.control.admission import Admission
from microvmd.control.capacity import Room
from microvmd.control.store import Store, Transaction
from microvmd.model.rate import RateLimits
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import Authenticate, Authorize, answering


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """``limit`` and ``left`` are None where nothing limits; ``used`` where it is of each image."""

    limit: int | None
    used: int | None = None
    left: int | None = None

    @classmethod
    def of(cls, limit: int, used: int) -> "QuotaFacts":
        return cls(limit, used, max(0, limit - used)) if limit else cls(None, used)


@dataclass(frozen=True, slots=True)
class RateFacts:
    """Calls per second, calls that could be made at once now, calls that wait."""

    per_second: float
    free: float
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """All limits of one service."""

    store: Store
    admission: Admission
    limits: RateLimits
    rates: Rates
    accelerator: Callable[[], Mapping[str, str] | None] = lambda: None
    """``kind`` (kvm or tcg) and ``reason``; None where the node has not told yet."""

    async def of(self, account: str, *, machine: bool) -> dict[str, object]:
        """As it is answered; ``machine`` adds how full that is."""
        quotas, room = await self.store.run(
            lambda tx: (
                self._quotas(tx, account),
                self.admission.capacity.room(tx) if machine else None,
            )
        )
        return {
            "account": account,
            "quotas": {name: asdict(found) for name, found in quotas.items()},
            "rates": {name: asdict(found) for name, found in self._rates(account).items()},
            "machine": None if room is None else self._machine(room),
        }

    def _quotas(self, tx: Transaction, account: str) -> Mapping[str, QuotaFacts]:
        quotas, use = self.admission.quotas, tx.use.of(account)
        return {
            "memory_mib": QuotaFacts.of(quotas.memory_mib, use.memory_mib),
            "images": QuotaFacts.of(quotas.images, use.images),
            "versions_of_an_image": QuotaFacts(quotas.versions or None),
            "builds": QuotaFacts.of(quotas.builds, use.builds),
        }

    def _rates(self, account: str) -> Mapping[str, RateFacts]:
        """Of operations with a rate of their own, and of those that were called lately."""
        used = self.rates.use(account)
        found = {}
        for name in (*self.limits.by_operation, *used):
            rate = self.limits.of(name)
            if rate is not None:
                lately = used.get(name)
                free, waiting = (lately.free, lately.waiting) if lately else (rate.burst, 0)
                found[name] = RateFacts(rate.per_second, free, waiting)
        return found

    def _machine(self, room: Room) -> Mapping[str, object]:
        rules = self.admission.capacity.rules
        return {
            **asdict(room.machine),
            "accelerator": self.accelerator(),
            "microvms": room.microvms,
            "builds": room.builds,
            "waiting_vmms": room.waiting,
            "baseline_mib": room.baseline_mib,
            "left_mib": max(0, room.left_mib),
            "reserve_mib": rules.reserve_mib,
            "overcommit": rules.overcommit or None,
            "disk_reserve_mib": rules.disk_mib,
        }


def limit_routes(
    limits: AccountLimits, authenticate: Authenticate, authorize: Authorize, operator: str
) -> list[Route]:
    """The route to mount beside ``extension_routes``. ``operator`` is the default account."""

    async def answer(request: Request) -> Response:
        context, _ = await authenticate(request)
        authorize.thing(context, "lambda:GetAccountSettings", "*")
        machine = context.is_root_of(operator)
        return JSONResponse(await limits.of(context.account, machine=machine))

    return [Route(f"{PREFIX}/limits", answering(answer))]
