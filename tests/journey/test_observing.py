"""What a service tells of itself while a real MicroVM lives: events, metrics, usage, traces."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.otlp import Collector
from tests.servicelab import Image, Microvm, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]


def _command(service: Service, *arguments: str) -> str:
    program = Path(sys.executable).parent / "microvmd"
    done = subprocess.run(
        [program, *arguments],
        env=service.environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


def _events(service: Service, name: str) -> list[dict[str, Any]]:
    lines = _command(service, "events", name, "--json").splitlines()
    return [json.loads(line)["detail"] for line in lines]


def _metrics(service: Service) -> dict[str, float]:
    """Sums by name."""
    token = (service.root / "keys" / "metrics.token").read_text()
    headers = {"authorization": f"Bearer {token}"}
    answer = httpx.get(f"{service.url}/metrics", headers=headers, timeout=30, trust_env=False)
    assert answer.status_code == 200
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def _resumed(traces: Collector, root: str, microvm: Microvm) -> None:
    """One trace from what resumed it, over the node's steps, to the first byte of an answer."""
    spans = traces.wait_for_trace("first answer", root, microvm.id)
    assert spans.keys() >= {"node starts it", "vmm", "guest.restored", "report Started"}
    begun, first = spans[root].start_time_unix_nano, spans["first answer"]
    started = spans["node starts it"].end_time_unix_nano
    # HAProxy cuts its times to milliseconds.
    assert begun < started < first.end_time_unix_nano + 1_000_000
    assert first.start_time_unix_nano <= first.end_time_unix_nano


def test_the_life_of_a_microvm(service: Service, notebook: Image, traces: Collector) -> None:
    before = _metrics(service)
    microvm = service.run(notebook)
    microvm.suspend()
    assert microvm.execute("6 * 7") == 42
    microvm.wait("RUNNING")
    _resumed(traces, "decide resume_requested", microvm)
    microvm.suspend()
    microvm.resume()
    assert microvm.execute("7 * 7") == 49
    _resumed(traces, "ResumeMicrovm", microvm)
    microvm.terminate()

    found = _events(service, microvm.id)
    assert [(event["state"], event["actor"]["type"]) for event in found] == [
        ("PENDING", "caller"),
        ("RUNNING", "node"),
        ("SUSPENDING", "caller"),
        ("SUSPENDED", "node"),
        ("RESUMING", "endpoint request"),
        ("RUNNING", "node"),
        ("SUSPENDING", "caller"),
        ("SUSPENDED", "node"),
        ("RESUMING", "caller"),
        ("RUNNING", "node"),
        ("TERMINATING", "caller"),
        ("TERMINATED", "node"),
    ]
    assert found[0]["actor"]["principal"].startswith("arn:aws:iam::")

    used = json.loads(_command(service, "usage", "--by", "microvm", "--json"))["lines"]
    (line,) = [line for line in used if line["key"] == microvm.id]
    assert line["running_s"] > 0
    assert line["vcpu_s"] == pytest.approx(line["memory_gb_s"] / 2)
    # The image's snapshot and then its own were read; its own alone was written.
    assert line["read_bytes"] > line["written_bytes"] > 1 << 20
    assert line["cost"] > 0

    after = _metrics(service)
    assert after["microvmd_edge_up"] == 1
    for name in ("microvmd_api_requests_total", "microvmd_step_seconds_count"):
        assert after[name] > before.get(name, 0)
    grown = "microvmd_state_changes_total"
    assert after[grown] - before.get(grown, 0) == len(found)
