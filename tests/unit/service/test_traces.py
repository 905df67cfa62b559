"""Spans reach a collector over OTLP, and nothing is sent where none is named."""

import anyio
import pytest

from microvmd.control import tracing
from microvmd.service.traces import exported
from microvmd.settings.observe import TraceSettings
from tests.otlp import attributes, collector

pytestmark = pytest.mark.anyio


async def test_spans_are_exported_at_the_end_at_the_latest() -> None:
    with collector() as received:
        async with exported(TraceSettings.model_validate({"endpoint": received.url})):
            with tracing.call("RunMicrovm", "request-1", None), tracing.span("decide"):
                pass
        found = await anyio.to_thread.run_sync(received.wait_for, "RunMicrovm", "decide")
        assert found["decide"].parent_span_id == found["RunMicrovm"].span_id
        assert attributes(found["RunMicrovm"])["aws.request_id"] == "request-1"
        assert received.services == {"microvmd"}


async def test_a_part_of_the_calls() -> None:
    with collector() as received:
        settings = TraceSettings.model_validate({"endpoint": received.url, "ratio": 0})
        async with exported(settings):
            with tracing.call("RunMicrovm", "request-1", None):
                pass
        assert received.spans == []


async def test_off_by_default() -> None:
    async with exported(TraceSettings()):
        with tracing.call("RunMicrovm", "request-1", None):
            assert tracing.cause().traceparent is None
