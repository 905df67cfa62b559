"""The first answer of a run ends its trace, when the edge has seen it, and only then."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from microvmd.control import tracing
from microvmd.control.tracing import FIRST_ANSWER_S
from microvmd.edge.activity import Activity, FirstAnswer
from microvmd.messages.node import ResumeMicrovm, Started, StartMicrovm, Suspended
from microvmd.model.microvm import MicroVm
from microvmd.service import first_answers
from microvmd.service.first_answers import look, trace_first_answers
from microvmd.service.traces import exported
from microvmd.settings.observe import TraceSettings
from tests.otlp import attributes, collector
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio

BEGUN = 1_796_004_733.0


def _seen(arrived: float, answered: float) -> Activity:
    """As HAProxy keeps it."""
    bits = (round(moment * 1000) % (1 << 32) for moment in (arrived, answered))
    return Activity(100, 0, 1, FirstAnswer(*bits))


async def _started(p: Plane) -> MicroVm:
    await p.built()
    with tracing.call("RunMicrovm", "request-1", None):
        made = await p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
    command = p.node.commands[-1]
    assert isinstance(command, StartMicrovm)
    report = Started(made.microvm_id, 1, "10.0.0.1", begun=BEGUN, cause=command.spec.cause)
    await p.microvms.report(report)
    return made


async def test_a_trace_from_the_call_to_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_answers, "LOOK_S", 0.0)
    monkeypatch.setattr("microvmd.service.first_answers.time.time", lambda: BEGUN + 5)
    answers: list[Mapping[str, Activity] | OSError] = [{}, OSError("HAProxy starts anew")]
    with collector() as received:
        settings = TraceSettings.model_validate({"endpoint": received.url})
        async with plane(tmp_path) as p, exported(settings):
            made = await _started(p)
            answers.append({made.endpoint_id: _seen(BEGUN + 1.5, BEGUN + 1.625)})

            async def traffic() -> Mapping[str, Activity]:
                found = answers.pop(0)
                if isinstance(found, OSError):
                    raise found
                return found

            async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
                loop = tasks.create_task(trace_first_answers(p.microvms, traffic))
                while p.microvms.traces.unanswered:  # noqa: ASYNC110 - nothing tells it
                    await asyncio.sleep(0)
                loop.cancel()
        assert not answers
        names = ("RunMicrovm", "first answer")
        found = await anyio.to_thread.run_sync(received.wait_for, *names)
    first = found["first answer"]
    assert first.trace_id == found["RunMicrovm"].trace_id
    assert first.parent_span_id
    assert attributes(first) == {"microvmd.microvm_id": made.microvm_id}
    times = (first.start_time_unix_nano, first.end_time_unix_nano)
    assert [round(time / 1e6) for time in times] == [1_796_004_734_500, 1_796_004_734_625]


async def test_a_resume_has_a_first_answer_of_its_own(tmp_path: Path) -> None:
    with collector() as received:
        settings = TraceSettings.model_validate({"endpoint": received.url})
        async with plane(tmp_path) as p, exported(settings):
            made = await _started(p)
            look(p.microvms, {made.endpoint_id: _seen(BEGUN + 1, BEGUN + 2)}, BEGUN + 3)
            await p.microvms.suspend(ACCOUNT, made.microvm_id)
            await p.microvms.report(Suspended(made.microvm_id, 1))
            with tracing.call("ResumeMicrovm", "request-2", None):
                await p.microvms.resume(ACCOUNT, made.microvm_id)
            command = p.node.commands[-1]
            assert isinstance(command, ResumeMicrovm)
            cause, began = command.spec.cause, BEGUN + 60
            report = Started(made.microvm_id, 2, "10.0.0.1", begun=began, cause=cause)
            await p.microvms.report(report)
            for answered in (BEGUN + 2, BEGUN + 62):
                look(p.microvms, {made.endpoint_id: _seen(BEGUN + 1, answered)}, BEGUN + 63)
        found = received.of_trace(received.wait_for("ResumeMicrovm")["ResumeMicrovm"].trace_id)
    (first,) = [one for one in found if one.name == "first answer"]
    assert round(first.end_time_unix_nano / 1e9) == BEGUN + 62


async def test_it_is_waited_for_as_long_as_it_makes_sense(tmp_path: Path) -> None:
    with collector() as received:
        settings = TraceSettings.model_validate({"endpoint": received.url})
        async with plane(tmp_path) as p, exported(settings):
            made = await _started(p)
            traces, before = p.microvms.traces, _seen(BEGUN - 60, BEGUN - 59)
            look(p.microvms, {made.endpoint_id: before, "another": before}, BEGUN + 1)
            assert list(traces.unanswered) == [made.microvm_id], "of before its start"
            look(p.microvms, {}, BEGUN + FIRST_ANSWER_S + 1)
            assert not traces.unanswered
            assert not traces.some_unanswered.is_set()
        assert "first answer" not in {span.name for span in received.spans}


async def test_nothing_is_looked_for_while_nobody_exports(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        made = await _started(p)
        assert not p.microvms.traces.unanswered
        assert not p.microvms.traces.some_unanswered.is_set()
        look(p.microvms, {made.endpoint_id: _seen(BEGUN + 1, BEGUN + 2)}, BEGUN + 3)


async def test_what_has_ended_is_waited_for_no_longer(tmp_path: Path) -> None:
    with collector() as received:
        settings = TraceSettings.model_validate({"endpoint": received.url})
        async with plane(tmp_path) as p, exported(settings):
            made = await _started(p)
            p.microvms.traces.forget(made.microvm_id)
            assert not p.microvms.traces.some_unanswered.is_set()
            p.microvms.traces.answered(made.microvm_id, BEGUN + 1, BEGUN + 2)
        assert "first answer" not in {span.name for span in received.spans}
