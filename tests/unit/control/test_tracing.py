"""Spans of one run: from the call over the node's steps to the request that waited."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from microvmd.control import tracing
from microvmd.control.acting import acting
from microvmd.messages.node import Started, StartMicrovm
from microvmd.model.event import Actor, ActorKind
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, plane

pytestmark = pytest.mark.anyio

CALLER = Actor(ActorKind.CALLER, "arn", "request-1")
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    with tracing.exporting(provider):
        yield kept
    provider.shutdown()


def _by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {one.name: one for one in spans.get_finished_spans()}


def _above(one: ReadableSpan, spans: dict[str, ReadableSpan]) -> list[str]:
    """Names of the spans around it, from within."""
    names: list[str] = []
    by_id = {other.context.span_id: other for other in spans.values()}
    while one.parent is not None and one.parent.span_id in by_id:
        one = by_id[one.parent.span_id]
        names.append(one.name)
    return names


async def test_one_run_is_one_trace(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        with acting(CALLER), tracing.call("RunMicrovm", "request-1", CLIENT):
            made = await p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        command = p.node.commands[-1]
        assert isinstance(command, StartMicrovm)
        cause = command.spec.cause
        assert cause is not None
        assert cause.request_id == "request-1"
        steps = {"vmm": 40.0, "guest.restored": 30.0, "total": 100.0}
        offsets = {"vmm": 10.0, "guest.restored": 60.0}
        report = Started(made.microvm_id, 1, "10.0.0.1", steps, offsets, 2000.0, cause)
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(p.microvms.route_to(made.endpoint_id))
            while made.microvm_id not in p.microvms._changed:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0)
            with capture_logs() as logs:
                await p.microvms.report(report)
        assert asking.result().address == "10.0.0.1"
    found = _by_name(spans)
    assert _above(found["vmm"], found) == ["node starts it", "decide RunMicrovm", "RunMicrovm"]
    assert _above(found["decide started"], found)[0] == "report Started"
    assert _above(found["edge holds a request"], found)[-1] == "RunMicrovm"
    vmm = found["vmm"]
    assert (vmm.start_time, vmm.end_time) == (2_000_010_000_000, 2_000_050_000_000)
    assert found["RunMicrovm"].attributes == {
        "rpc.system": "aws-api",
        "rpc.method": "RunMicrovm",
        "aws.request_id": "request-1",
    }
    trace_ids = {f"{one.context.trace_id:032x}" for one in found.values()}
    assert trace_ids == {CLIENT.split("-")[1]}
    assert [line["microvm_id"] for line in logs if line["event"] == "microvm"] == [made.microvm_id]


async def test_a_report_of_what_is_gone_leaves_nothing(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        with tracing.call("RunMicrovm", "request-1", CLIENT):
            made = await p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        command = p.node.commands[-1]
        assert isinstance(command, StartMicrovm)
        late = Started(made.microvm_id, 7, "10.0.0.1", cause=command.spec.cause)
        await p.microvms.report(late)
        assert not p.microvms.traces._parents
        await p.microvms.report(replace(late, generation=1))
        assert list(p.microvms.traces._parents) == [made.microvm_id]


async def test_nothing_is_made_while_nobody_exports(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        with acting(CALLER), tracing.call("RunMicrovm", "request-1", None):
            await p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        command = p.node.commands[-1]
        assert isinstance(command, StartMicrovm)
        assert command.spec.cause is not None
        assert command.spec.cause.traceparent is None
        assert command.spec.cause.request_id == "request-1"


def test_a_parent_that_is_none_begins_a_trace(spans: InMemorySpanExporter) -> None:
    with tracing.call("GetMicrovm", "request-2", "00-nonsense"):
        pass
    (made,) = spans.get_finished_spans()
    assert made.parent is None
