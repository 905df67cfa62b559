"""What the service tells of itself: events, metrics, usage, calls. ``serve`` wires it."""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from starlette.routing import Route

from microvmd.control.events import Events, forget_old_events
from microvmd.control.metering import Metering, forget_old_usage
from microvmd.control.microvms import MicroVms
from microvmd.control.store import Store
from microvmd.control.webhooks import deliver
from microvmd.messages.capacity import Meter
from microvmd.service.audit_log import MIB, AuditLimits, AuditLog, audit_log
from microvmd.service.keys import metrics_token
from microvmd.service.metrics import Metrics, Sources, Traffic, metrics_route
from microvmd.service.routes.audit import audit_routes
from microvmd.service.routes.events import event_routes
from microvmd.service.routes.extensions import Authenticate, Authorize
from microvmd.service.routes.usage import usage_routes
from microvmd.settings.settings import Settings

DAY_S = 86400


class Observing:
    """``traffic`` is what the edge counts, by endpoint id; it raises OSError when that does not
    answer."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        traffic: Callable[[], Awaitable[Mapping[str, Traffic]]],
        meter: Meter,
    ) -> None:
        self.metrics = Metrics(settings.metrics.microvms)
        self._settings = settings
        self._store = store
        self._traffic = traffic
        self._meter = meter
        self._events = Events(store)

    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What runs as long as the service does, by name."""
        kept, clock, store = self._settings.retention, time.time, self._store
        webhooks = [receiver.webhook for receiver in self._settings.events.webhooks]
        return {
            "count events": lambda: self.metrics.count_changes(self._events),
            "deliver events": lambda: deliver(store, webhooks, clock),
            "forget events": lambda: forget_old_events(store, kept.event_days * DAY_S, clock),
            "forget usage": lambda: forget_old_usage(store, kept.usage_days * DAY_S, clock),
        }

    def audit(self) -> AbstractAsyncContextManager[AuditLog]:
        """The record of calls, while it is open."""
        kept = self._settings.audit
        limits = AuditLimits(kept.reads, kept.days, kept.mib * MIB)
        return audit_log(self._settings.root / "audit", limits)

    def routes(
        self,
        authenticate: Authenticate,
        authorize: Authorize,
        microvms: MicroVms,
        audit: AuditLog,
    ) -> list[Route]:
        """To mount beside the AWS operations."""
        prices = self._settings.prices
        metering = Metering(self._store, prices.prices)
        token = metrics_token(self._settings.root / "keys")
        return [
            *event_routes(self._events, authenticate, authorize),
            *audit_routes(audit, authenticate, authorize, self._settings.account),
            *usage_routes(metering, prices.currency, authenticate, authorize, time.time),
            metrics_route(
                self.metrics, Sources(microvms.live, self._traffic, self._waiting), token
            ),
        ]

    async def _waiting(self) -> int | None:
        try:
            # The meter is of the store's thread.
            return (await self._store.run(lambda _: self._meter.measure())).waiting
        except OSError:
            return None
