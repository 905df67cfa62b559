"""Metrics as Prometheus reads them, by its own parser; and the dashboard asks for no others."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from microvmd.control.events import Events
from microvmd.edge.activity import Activity
from microvmd.messages.node import Died, Started, Suspended
from microvmd.model.microvm import MicroVm, Phase
from microvmd.service.metrics import Metrics, Sources, metrics_route
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, plane
from tests.unit.control.test_store import microvm

pytestmark = pytest.mark.anyio

DASHBOARD = Path(__file__).parents[3] / "docs" / "reference" / "grafana-dashboard.json"
TOKEN = "t" * 40
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _sources(live: list[MicroVm], traffic: Mapping[str, Activity] | None = None) -> Sources:
    async def read() -> Mapping[str, Activity]:
        if traffic is None:
            raise OSError("HAProxy is not there")
        return traffic

    async def waiting() -> int:
        return 3

    return Sources(lambda: live, read, waiting)


async def _series(metrics: Metrics, sources: Sources) -> Series:
    text = (await metrics.text(sources)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


async def test_calls_are_counted_by_operation_and_status() -> None:
    metrics = Metrics(10)
    for seconds in (0.004, 0.2, 2.0):
        metrics.answered("GetMicrovm", 200, seconds)
    metrics.answered("GetMicrovm", 404, 0.001)
    found = await _series(metrics, _sources([]))
    total = "microvmd_api_requests_total"
    assert _value(found, total, operation="GetMicrovm", status="200") == 3
    assert _value(found, total, operation="GetMicrovm", status="404") == 1
    bucket = "microvmd_api_request_seconds_bucket"
    assert _value(found, bucket, operation="GetMicrovm", le="0.25") == 3
    assert _value(found, "microvmd_api_request_seconds_count", operation="GetMicrovm") == 4


async def test_steps_of_the_node_in_seconds() -> None:
    metrics = Metrics(10)
    metrics.reported(Started("microvm-1", 1, "10.0.0.1", {"restore": 40.0}))
    metrics.reported(Suspended("microvm-1", 1, {"save": 50.0}))
    metrics.reported(Died("microvm-1", 1, "why"))
    found = await _series(metrics, _sources([]))
    assert _value(found, "microvmd_step_seconds_sum", what="start", step="restore") == 0.04
    assert _value(found, "microvmd_step_seconds_sum", what="suspend", step="save") == 0.05


async def test_runs_are_counted_by_whether_a_vmm_waited() -> None:
    metrics = Metrics(10)
    for steps in ({"claim": 1.0}, {"claim": 1.0}, {"disk": 1.0}, {"snapshot": 1.0}):
        metrics.reported(Started("microvm-1", 1, "10.0.0.1", steps))
    found = await _series(metrics, _sources([]))
    assert _value(found, "microvmd_pool_runs_total", outcome="hit") == 2
    assert _value(found, "microvmd_pool_runs_total", outcome="miss") == 1
    assert _value(found, "microvmd_pool_waiting") == 3


async def test_states_are_those_of_now() -> None:
    live = [
        replace(microvm(1), phase=Phase.RUNNING, memory_mib=512),
        replace(microvm(2), phase=Phase.SUSPENDED, memory_mib=512),
    ]
    traffic = {live[0].endpoint_id: Activity(1234, 2)}
    found = await _series(Metrics(10), _sources(live, traffic))
    assert _value(found, "microvmd_microvms", state="RUNNING") == 1
    assert _value(found, "microvmd_microvms", state="PENDING") == 0
    assert _value(found, "microvmd_baseline_bytes") == 512 << 20
    assert _value(found, "microvmd_edge_up") == 1
    own = {"microvm": "microvm-1", "image": "app", "account": ACCOUNT}
    assert _value(found, "microvmd_microvm_edge_bytes_total", **own) == 1234
    assert _value(found, "microvmd_microvm_edge_connections", **own) == 2
    assert _value(found, "microvmd_microvm_state", **own, state="RUNNING") == 1


async def test_only_the_newest_have_series_of_their_own() -> None:
    live = [replace(microvm(number), started_at=float(number)) for number in range(5)]
    found = await _series(Metrics(2), _sources(live))
    named = {dict(labels)["microvm"] for name, labels in found if "microvm" in dict(labels)}
    assert named == {"microvm-3", "microvm-4"}
    assert _value(found, "microvmd_edge_up") == 0


async def test_changes_are_counted_as_they_are_committed(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        metrics = Metrics(2)
        await opened.built()
        counting = tasks.create_task(metrics.count_changes(Events(opened.store)))
        wanted = {"kind": "MicroVM State Change", "state": "PENDING", "actor": "service"}
        count = 0.0
        while count < 1:
            # The first ones may come before the counter has begun.
            await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
            found = await _series(metrics, _sources([]))
            count = found.get(("microvmd_state_changes_total", frozenset(wanted.items())), 0)
        counting.cancel()


async def test_only_who_has_the_token_reads_them() -> None:
    route = metrics_route(Metrics(2), _sources([]), TOKEN)
    transport = httpx.ASGITransport(Starlette(routes=[route]))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": TOKEN}):
            assert (await client.get("/metrics", headers=headers)).status_code == 401
        answer = await client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        assert 'microvmd_build_info{version="' in answer.text


async def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    metrics = Metrics(2)
    metrics.answered("GetMicrovm", 200, 1)
    metrics.reported(Started("microvm-1", 1, "10.0.0.1", {"restore": 40.0}))
    live = [microvm(1)]
    text = (await metrics.text(_sources(live, {live[0].endpoint_id: Activity(1, 1)}))).decode()
    exposed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    shown = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in shown["panels"] for target in panel.get("targets", ())]
    asked = set(re.findall(r"\bmicrovmd_\w+|process_\w+", " ".join(queries)))
    ends = ("", "_total", "_bucket", "_count")
    known = {f"{name}{end}" for name in exposed for end in ends}
    assert len(queries) >= 8
    assert asked <= known
