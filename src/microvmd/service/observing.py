"""What the service tells of itself: events, metrics, usage. ``serve`` wires it with three lines."""

import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.routing import Route

from microvmd.control.events import Events, forget_old_events
from microvmd.control.metering import Metering, forget_old_usage
from microvmd.control.microvms import MicroVms
from microvmd.control.store import Store
from microvmd.control.webhooks import deliver
from microvmd.service.keys import metrics_token
from microvmd.service.metrics import Metrics, Sources, Traffic, metrics_route
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
    ) -> None:
        self.metrics = Metrics(settings.metrics.microvms)
        self._settings = settings
        self._store = store
        self._traffic = traffic
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

    def routes(
        self, authenticate: Authenticate, authorize: Authorize, microvms: MicroVms
    ) -> list[Route]:
        """To mount beside the AWS operations."""
        prices = self._settings.prices
        metering = Metering(self._store, prices.prices)
        token = metrics_token(self._settings.root / "keys")
        return [
            *event_routes(self._events, authenticate, authorize),
            *usage_routes(metering, prices.currency, authenticate, authorize, time.time),
            metrics_route(self.metrics, Sources(microvms.live, self._traffic), token),
        ]
