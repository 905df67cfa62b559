"""Logs where CloudWatch Logs has them: names, options, who gets none, and what a suspend leaves."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from tests.servicelab import Image, Microvm, Service
from tests.serviceprocess import ACCOUNT, PROFILE, until

pytestmark = [pytest.mark.vm, pytest.mark.journey]

ROLE = f"arn:aws:iam::{ACCOUNT}:role/worker"
LIMIT = 30.0
"""Seconds for a line to arrive; it takes about one on an idle machine."""
AFTER_OUTAGE = 150.0
"""Seconds: the pause between two tries has grown to up to one minute."""
DISABLED: dict[str, Any] = {"logging": {"disabled": {}}}


def _say(microvm: Microvm, text: str) -> None:
    microvm.execute(f"import os; os.write(1, {text!r}.encode() + b'\\n')")


def _group(image: Image) -> str:
    return f"/aws/lambda-microvms/{image.arn.rsplit(':', 1)[1]}"


def _streams(service: Service, group: str) -> list[str]:
    logs = service.client("logs")
    try:
        found = logs.describe_log_streams(logGroupName=group)["logStreams"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [item["logStreamName"] for item in found]


def _lines(service: Service, group: str, stream: str) -> list[str]:
    if stream not in _streams(service, group):
        return []
    answer = service.client("logs").get_log_events(
        logGroupName=group, logStreamName=stream, startFromHead=True
    )
    return [event["message"] for event in answer["events"]]


def _arrived(
    service: Service, group: str, stream: str, text: str, limit: float = LIMIT
) -> list[str]:
    """All lines of a stream once this one is there."""

    def ask() -> list[str] | None:
        found = _lines(service, group, stream)
        return found if text in found else None

    return until(ask, limit, f"{text!r} in {group} {stream}")


def _run_stream(microvm: Microvm) -> str:
    stream = str(microvm.service.facts(microvm.id)["log_stream"])
    assert re.fullmatch(rf"\d{{4}}/\d\d/\d\d\[1\.0\]{microvm.id}", stream)
    return stream


def _build_stream(build: Mapping[str, Any], image: Image) -> str:
    day = build["createdAt"].astimezone(UTC).strftime("%Y/%m/%d")
    return f"{day}[{image.version}]microvm-{build['buildId']}"


def test_output_of_a_microvm_with_a_role(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, executionRoleArn=ROLE)
    group, stream = _group(notebook), _run_stream(microvm)
    _say(microvm, "the first line")
    _arrived(service, group, stream, "the first line")
    _say(microvm, "before the suspend")
    microvm.suspend()
    _arrived(service, group, stream, "before the suspend")
    microvm.resume()
    _say(microvm, "the last line")
    microvm.terminate()
    said = ["the first line", "before the suspend", "the last line"]
    found = _arrived(service, group, stream, "the last line")
    assert [line for line in found if line in said] == said, "in order, each once"


def test_the_log_of_a_build(service: Service, notebook: Image) -> None:
    build = service.build(notebook)
    found = _arrived(service, _group(notebook), _build_stream(build, notebook), "done")
    own = f"build/{notebook.version}/{build['buildId']}"
    assert found == service.log_lines(_group(notebook), own)


@pytest.mark.parametrize("options", [{}, {**DISABLED, "executionRoleArn": ROLE}])
def test_who_has_no_log_there(service: Service, notebook: Image, options: dict[str, Any]) -> None:
    silent = service.run(notebook, **options)
    talking = service.run(notebook, executionRoleArn=ROLE)
    for microvm in (silent, talking):
        _say(microvm, "something")
    _arrived(service, _group(notebook), _run_stream(talking), "something")
    assert _run_stream(silent) not in _streams(service, _group(notebook))
    assert "something" in service.log_lines(_group(notebook), _run_stream(silent)), "only here"


def test_names_of_ones_own(service: Service, notebook: Image) -> None:
    logging = {"cloudWatch": {"logGroup": "/mine", "logStream": "exactly this"}}
    microvm = service.run(notebook, executionRoleArn=ROLE, logging=logging)
    _say(microvm, "here")
    _arrived(service, "/mine", "exactly this", "here")
    assert _run_stream(microvm) not in _streams(service, _group(notebook))


def test_the_logging_of_an_image_is_that_of_its_build(service: Service, notebook: Image) -> None:
    files = {"Dockerfile": b"FROM scratch\nCOPY none /\n"}
    image = service.begin_image("unlogged", files, **DISABLED)
    assert service.built(image) == "FAILED"
    logged = service.begin_image("logged", files, logging={"cloudWatch": {"logGroup": "/builds"}})
    assert service.built(logged) == "FAILED"
    stream = _build_stream(service.build(logged), logged)

    def ask() -> list[str] | None:
        return _lines(service, "/builds", stream) or None

    until(ask, LIMIT, "the log of the failed build")
    assert _streams(service, _group(image)) == []


def test_the_aws_cli_reads_them(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, executionRoleArn=ROLE)
    _say(microvm, "for the CLI")
    _arrived(service, _group(notebook), _run_stream(microvm), "for the CLI")
    aws = Path(sys.executable).with_name("aws")
    found = subprocess.run(
        [
            aws,
            "logs",
            "filter-log-events",
            f"--log-group-name={_group(notebook)}",
            f"--log-stream-names={_run_stream(microvm)}",
            "--output=json",
        ],
        env={**service.environment, "AWS_PROFILE": PROFILE},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert "for the CLI" in [event["message"] for event in json.loads(found.stdout)["events"]]


def test_a_restart_loses_and_repeats_nothing(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, executionRoleArn=ROLE)
    group, stream = _group(notebook), _run_stream(microvm)
    said = [f"line {number}" for number in range(20)]
    for text in said[:10]:
        _say(microvm, text)
    service.stop()
    for text in said[10:]:
        _say(microvm, text)
    service.start()
    microvm.wait("RUNNING")
    found = _arrived(service, group, stream, said[-1])
    assert [line for line in found if line in said] == said


def test_an_endpoint_that_hangs_holds_up_nobody(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, executionRoleArn=ROLE)
    group, stream = _group(notebook), _run_stream(microvm)
    _say(microvm, "before")
    _arrived(service, group, stream, "before")
    server = json.loads((service.place.run / "aws" / "local-aws.json").read_text())["pid"]
    os.kill(server, signal.SIGSTOP)
    try:
        for number in range(50):
            _say(microvm, f"meanwhile {number}")
        microvm.suspend()
        microvm.resume()
        microvm.terminate()
    finally:
        os.kill(server, signal.SIGCONT)
    found = _arrived(service, group, stream, "meanwhile 49", AFTER_OUTAGE)
    said = [line for line in found if line.startswith("meanwhile")]
    # A call whose answer was not waited for may have come through all the same.
    assert list(dict.fromkeys(said)) == [f"meanwhile {number}" for number in range(50)]
