"""Spans of what a call sets in motion, across the service and its node.

Spans are made by OpenTelemetry's API and cost next to nothing while nobody exports them
(``service/traces.py``). A node makes none: it is told what caused a command, and reports when its
steps began and how long they took; the spans are made here, with those times.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracerProvider,
    Span,
    SpanKind,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars

from microvmd.control.acting import current_actor
from microvmd.messages.node import Cause, Started

NS = 1_000_000_000
NS_OF_MS = 1_000_000
SCOPE = "microvmd"
FIRST_ANSWER_S = 600.0
"""How long after a start its first answer is waited for."""
_W3C = TraceContextTextMapPropagator()


@dataclass(slots=True)
class _Exporting:
    provider: TracerProvider


_exporting = _Exporting(NoOpTracerProvider())


@contextmanager
def exporting(provider: TracerProvider) -> Iterator[None]:
    """Give all spans of this process to a provider. OpenTelemetry's own global can be set once
    only."""
    before, _exporting.provider = _exporting.provider, provider
    try:
        yield
    finally:
        _exporting.provider = before


@contextmanager
def span(
    name: str,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    **attributes: str | None,
) -> Iterator[None]:
    """What happens within, below the span around it or below a ``traceparent``."""
    tracer = _exporting.provider.get_tracer(SCOPE)
    context = None if parent is None else context_of(parent)
    with tracer.start_as_current_span(name, context, kind, attributes=_known(attributes)):
        yield


@contextmanager
def call(operation: str, request_id: str, parent: str | None) -> Iterator[None]:
    """A call of the API; below its client's span, where it sent a ``traceparent``."""
    about = {"rpc.system": "aws-api", "rpc.method": operation, "aws.request_id": request_id}
    with span(operation, parent, SpanKind.SERVER, **about):
        yield


def cause() -> Cause:
    """Who and what set in motion what is decided now, as a node is told it."""
    carrier: dict[str, str] = {}
    if get_current_span().get_span_context().is_valid:
        _W3C.inject(carrier)
    return Cause(current_actor().request_id, carrier.get("traceparent"))


def context_of(parent: str) -> Context:
    """Below the span that a ``traceparent`` (W3C Trace Context) names; a root if it is none."""
    return _W3C.extract({"traceparent": parent}, Context())


class Starts:
    """What each live MicroVM was last started for; empty while nobody exports spans."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._unanswered: dict[str, float] = {}
        self.some_unanswered = asyncio.Event()
        """Set while `unanswered` is not empty."""

    @property
    def unanswered(self) -> Collection[str]:
        """Those whose application has answered no request since their start, as far as is known."""
        return self._unanswered

    @contextmanager
    def caused_by(self, report: object, *, stale: bool) -> Iterator[None]:
        """What is decided on a report is logged, and spans are made, below the call it comes of.
        A ``stale`` one, of an older generation, changes nothing: what follows is below another."""
        if not isinstance(report, Started) or report.cause is None:
            yield
            return
        with bound_contextvars(request_id=report.cause.request_id):
            parent = report.cause.traceparent
            if parent is None:
                yield
                return
            if not stale:
                self._parents[report.microvm_id] = parent
                self._unanswered[report.microvm_id] = report.begun
                self.some_unanswered.set()
            _spans_of(report, context_of(parent))
            with span("report Started", parent):
                yield

    def held(self, microvm_id: str, since: float, until: float) -> None:
        """A request to its endpoint waited for it; in seconds since the epoch."""
        self._of("edge holds a request", microvm_id, since, until)

    def answered(self, microvm_id: str, arrived: float, began: float) -> None:
        """The first request that its application has answered since it was started or resumed: when
        it arrived, and when the answer began, in seconds since the epoch. One of before that is
        none of it."""
        begun = self._unanswered.get(microvm_id)
        if begun is not None and began >= begun:
            self._answered_or_not(microvm_id)
            self._of("first answer", microvm_id, arrived, began)

    def give_up(self, now: float) -> None:
        """Wait no longer for those that nobody asks."""
        for microvm_id, begun in list(self._unanswered.items()):
            if begun < now - FIRST_ANSWER_S:
                self._answered_or_not(microvm_id)

    def forget(self, microvm_id: str) -> None:
        """It has ended."""
        self._parents.pop(microvm_id, None)
        self._answered_or_not(microvm_id)

    def _answered_or_not(self, microvm_id: str) -> None:
        self._unanswered.pop(microvm_id, None)
        if not self._unanswered:
            self.some_unanswered.clear()

    def _of(self, name: str, microvm_id: str, since: float, until: float) -> None:
        parent = self._parents.get(microvm_id)
        if parent is not None:
            about = {"microvmd.microvm_id": microvm_id}
            tracer = _exporting.provider.get_tracer(SCOPE)
            start = round(since * NS)
            made = tracer.start_span(name, context_of(parent), attributes=about, start_time=start)
            made.end(round(until * NS))


def _spans_of(report: Started, parent: Context) -> None:
    """A start, with the times that the node measured."""
    tracer = _exporting.provider.get_tracer(SCOPE)
    begun, about = round(report.begun * NS), {"microvmd.microvm_id": report.microvm_id}
    around = tracer.start_span("node starts it", parent, attributes=about, start_time=begun)
    for name, offset in report.offsets.items():
        begin = begun + round(offset * NS_OF_MS)
        step = tracer.start_span(name, _below(around), start_time=begin)
        step.end(begin + round(report.timings.get(name, 0.0) * NS_OF_MS))
    around.end(begun + round(report.timings.get("total", 0.0) * NS_OF_MS))


def _below(around: Span) -> Context:
    return set_span_in_context(around, Context())


def _known(attributes: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value is not None}
