"""Spans go to an OpenTelemetry collector, over OTLP/HTTP, when the operator names one.

They are sent in batches by a thread of their own; a collector that does not answer costs spans and
nothing else.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from microvmd import __version__
from microvmd.control.tracing import exporting
from microvmd.settings.observe import TraceSettings

FLUSH_MS = 2000

log = structlog.get_logger(__name__)


@asynccontextmanager
async def exported(settings: TraceSettings) -> AsyncIterator[None]:
    """Spans of this process are exported while the context lasts, if there is an endpoint."""
    if settings.endpoint is None:
        yield
        return
    # Imported only where it is used: the exporter takes a tenth of a second and some megabytes.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    about = {"service.name": "microvmd", "service.version": __version__}
    provider = TracerProvider(
        ParentBased(TraceIdRatioBased(settings.ratio)),
        Resource.create(about),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(str(settings.endpoint))))
    log.info("traces.exported", endpoint=str(settings.endpoint))
    with exporting(provider):
        try:
            yield
        finally:
            await asyncio.to_thread(provider.force_flush, FLUSH_MS)
            await asyncio.to_thread(provider.shutdown)
