"""What an operator's Prometheus reads: ``GET /metrics`` on the API's port.

Counters are fed where things happen; what is a state is read when somebody asks. Label values are
bounded: operations, states and steps are closed sets, and of MicroVMs only the ``most`` newest have
series of their own.
"""

import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from microvmd import __version__
from microvmd.control.event_rows import EventQuery
from microvmd.control.events import Events
from microvmd.messages.node import Report, Started, Suspended
from microvmd.model.microvm import MicroVm, Phase
from microvmd.node.timings import CLAIM, DISK

NOT_OURS = "-"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Traffic(Protocol):
    """What the edge counts for one endpoint since its HAProxy started."""

    @property
    def bytes_total(self) -> int: ...

    @property
    def connections(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Where states are read. ``traffic`` is by endpoint id and raises OSError when the edge does
    not answer."""

    live: Callable[[], Iterable[MicroVm]]
    traffic: Callable[[], Awaitable[Mapping[str, Traffic]]]
    waiting: Callable[[], Awaitable[int | None]]
    """VMMs without a guest; None where the node does not tell."""


class Metrics:
    """All metrics of one service."""

    def __init__(self, most: int) -> None:
        self.registry = CollectorRegistry()
        self._most = most
        self._requests = Counter(
            "microvmd_api_requests",
            "Answered calls of the API.",
            ("operation", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "microvmd_api_request_seconds",
            "From a call's first byte to its answer.",
            ("operation",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._steps = Histogram(
            "microvmd_step_seconds",
            "Steps of starts (runs and resumes) and suspends; guest.* passed in the guest.",
            ("what", "step"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._claims = Counter(
            "microvmd_pool_runs",
            "Runs by whether a VMM waited for them.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("hit", "miss"):
            self._claims.labels(outcome)
        self._changes = Counter(
            "microvmd_state_changes",
            "Changes of state, as in the events.",
            ("kind", "state", "actor"),
            registry=self.registry,
        )
        about = Gauge(
            "microvmd_build_info",
            "Always 1; what runs is in the label.",
            ("version",),
            registry=self.registry,
        )
        about.labels(__version__).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """A call of the API."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def reported(self, report: Report) -> None:
        """The times that a node measured."""
        match report:
            case Started():
                what = "start"
                self._count_claim(report)
            case Suspended():
                what = "suspend"
            case _:
                return
        for step, milliseconds in report.timings.items():
            self._steps.labels(what, step).observe(milliseconds / 1000)

    def _count_claim(self, report: Started) -> None:
        """A run has one of these two steps; a resume, or what was adopted, has neither."""
        if CLAIM in report.timings:
            self._claims.labels("hit").inc()
        elif DISK in report.timings:
            self._claims.labels("miss").inc()

    async def count_changes(self, events: Events) -> None:
        """Run for ever: every event from now on is counted."""
        after = await events.newest()
        async for event in events.read(EventQuery(), after=after, follow=True):
            change = event.change
            self._changes.labels(change.kind.value, change.after, event.actor.kind.value).inc()

    async def text(self, sources: Sources) -> bytes:
        """The exposition, with states as they are now."""
        try:
            traffic: Mapping[str, Traffic] | None = await sources.traffic()
        except OSError:
            traffic = None
        waiting = await sources.waiting()
        now = _Now(list(sources.live()), traffic, waiting, self._most, time.time())
        states = CollectorRegistry()
        states.register(now)
        return generate_latest(self.registry) + generate_latest(states)


@dataclass(frozen=True, slots=True, eq=False)  # a registry's key: by identity
class _Now(Collector):
    """The states at one moment."""

    live: list[MicroVm]
    traffic: Mapping[str, Traffic] | None
    waiting: int | None
    most: int
    time: float = field(default=0.0)

    def collect(self) -> Iterable[Metric]:
        yield self._by_phase()
        yield self._memory()
        edge = GaugeMetricFamily("microvmd_edge_up", "1 when HAProxy answers.")
        edge.add_metric((), float(self.traffic is not None))
        yield edge
        if self.waiting is not None:
            pool = GaugeMetricFamily("microvmd_pool_waiting", "VMMs that wait for a run.")
            pool.add_metric((), self.waiting)
            yield pool
        yield from self._each()

    def _by_phase(self) -> Metric:
        found = GaugeMetricFamily("microvmd_microvms", "MicroVMs by state.", labels=("state",))
        for phase in Phase:
            if phase is not Phase.TERMINATED:
                count = sum(microvm.phase is phase for microvm in self.live)
                found.add_metric((phase.value,), count)
        return found

    def _memory(self) -> Metric:
        found = GaugeMetricFamily(
            "microvmd_baseline_bytes", "Baseline memory of MicroVMs that have a VMM."
        )
        mib = sum(microvm.memory_mib for microvm in self.live if microvm.phase.on_node)
        found.add_metric((), mib << 20)
        return found

    def _each(self) -> Iterable[Metric]:
        labels = ("microvm", "image", "account")
        age = GaugeMetricFamily("microvmd_microvm_age_seconds", "Since its run.", labels=labels)
        state = GaugeMetricFamily(
            "microvmd_microvm_state", "1 for the state it is in.", labels=(*labels, "state")
        )
        traffic = CounterMetricFamily(
            "microvmd_microvm_edge_bytes", "Bytes since HAProxy started.", labels=labels
        )
        connections = GaugeMetricFamily(
            "microvmd_microvm_edge_connections", "Open connections.", labels=labels
        )
        newest = sorted(self.live, key=lambda microvm: microvm.started_at, reverse=True)
        for microvm in newest[: self.most]:
            values = (microvm.microvm_id, microvm.image_arn.rpartition(":")[2], microvm.account)
            age.add_metric(values, self.time - microvm.started_at)
            state.add_metric((*values, microvm.phase.value), 1)
            seen = (self.traffic or {}).get(microvm.endpoint_id)
            if seen is not None:
                traffic.add_metric(values, seen.bytes_total)
                connections.add_metric(values, seen.connections)
        return age, state, traffic, connections


def metrics_route(metrics: Metrics, sources: Sources, token: str) -> Route:
    """``GET /metrics`` for who has the token (``Authorization: Bearer``)."""
    wanted = f"Bearer {token}".encode()

    async def answer(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, wanted):
            return PlainTextResponse(
                "The token is in keys/metrics.token below the service's root.\n",
                status_code=401,
                headers={"www-authenticate": "Bearer"},
            )
        text = await metrics.text(sources)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", answer)
