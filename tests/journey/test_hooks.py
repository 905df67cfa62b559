"""Lifecycle hooks of a small application: order, bodies, and what a failure does."""

import json
from typing import Any

import pytest

from tests.checkout import CHECKOUT
from tests.servicelab import MICROVM_HOOKS, Image, Microvm, Service, folder

pytestmark = [pytest.mark.vm, pytest.mark.journey]

FILES = folder(CHECKOUT / "tests" / "apps" / "hooks")
NOT_YET = 3
ADVICE = "Please check your hook endpoint and application logs for more details."


RUN_LIMIT = 5
"""Seconds; long enough for a busy machine."""


def _hooks(**ready: Any) -> dict[str, Any]:
    image_hooks = {"ready": "ENABLED", "readyTimeoutInSeconds": 60, "validate": "ENABLED"}
    return {
        "port": 9000,
        "microvmImageHooks": {**image_hooks, **ready},
        "microvmHooks": {**MICROVM_HOOKS, "runTimeoutInSeconds": RUN_LIMIT},
    }


@pytest.fixture
def hooked(service: Service) -> Image:
    """Its ready hook says "not yet" a few times first."""
    return service.image(
        "hooks", FILES, hooks=_hooks(), environmentVariables={"READY_AFTER": str(NOT_YET)}
    )


def _calls(microvm: Microvm) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(microvm.text())
    return found


def _names(microvm: Microvm) -> list[str]:
    return [call["hook"] for call in _calls(microvm)]


def test_all_hooks_in_their_order(service: Service, hooked: Image) -> None:
    log = service.build_lines(hooked)
    assert any(line.startswith("port 9000 answers hooks and is closed") for line in log)
    built = [line for line in log if line.startswith("hook ")]
    # validate is asked of a restored snapshot that is thrown away: no MicroVM remembers it.
    assert built == ["hook ready"] * (NOT_YET + 1) + ["hook validate"]

    microvm = service.run(hooked, runHookPayload="for you")
    born = ["ready"] * (NOT_YET + 1) + ["run"]
    assert _names(microvm) == born
    microvm.suspend()
    assert _names(microvm) == [*born, "suspend", "resume"]
    stream = _log_stream(microvm)
    microvm.terminate()
    lines = service.log_lines(*stream)
    assert [line for line in lines if line.startswith("hook ")] == [
        "hook run",
        "hook suspend",
        "hook resume",
        "hook terminate",
    ]


def _log_stream(microvm: Microvm) -> tuple[str, str]:
    facts = microvm.service.facts(microvm.id)
    return facts["log_group"], facts["log_stream"]


def test_what_a_hook_is_sent(service: Service, hooked: Image) -> None:
    microvm = service.run(hooked, runHookPayload='"quoted" \N{SNOWMAN}')
    calls = {call["hook"]: call for call in _calls(microvm)}
    for name, call in calls.items():
        assert call["path"] == f"/aws/lambda-microvms/runtime/v1/{name}"
        assert call["host"] == "localhost:9000"
        assert call["client"] == "127.0.0.1"
    assert json.loads(calls["run"]["body"]) == {
        "microvmId": microvm.id,
        "runHookPayload": '"quoted" \N{SNOWMAN}',
    }
    assert calls["run"]["type"] == "application/json"
    assert calls["ready"]["body"] == ""


def test_a_failed_run_hook_terminates(service: Service, hooked: Image) -> None:
    microvm = service.run(hooked, wait=False, runHookPayload='{"run": 400}')
    ended = microvm.wait("TERMINATED")
    assert ended["stateReason"] == f"Run lifecycle hook returned HTTP status 400. {ADVICE}"
    assert microvm.vmm is None
    assert "hook run" in service.log_lines(*_log_stream(microvm)), "its log tells why"


def test_a_run_hook_that_hangs_terminates(service: Service, hooked: Image) -> None:
    microvm = service.run(hooked, wait=False, runHookPayload='{"run": "hang"}')
    ended = microvm.wait("TERMINATED")
    assert ended["stateReason"] == f"Run lifecycle hook timed out. {ADVICE}"


def test_a_failed_suspend_hook_terminates(service: Service, hooked: Image) -> None:
    microvm = service.run(hooked, runHookPayload='{"suspend": 500}')
    service.api.suspend_microvm(microvmIdentifier=microvm.id)
    ended = microvm.wait("TERMINATED")
    assert ended["stateReason"] == f"Suspend lifecycle hook returned HTTP status 500. {ADVICE}"
    assert microvm.vmm is None


def test_a_failed_resume_hook_leaves_it_suspended(service: Service, hooked: Image) -> None:
    microvm = service.run(hooked, runHookPayload='{"resume": 500}')
    microvm.suspend()
    answer = microvm.request()
    assert (answer.status_code, answer.content) == (502, b"")
    assert microvm.state == "SUSPENDED"
    assert microvm.vmm is None


def test_the_hook_port_is_closed_from_outside(service: Service, hooked: Image) -> None:
    microvm = service.run(hooked)
    before = _names(microvm)
    answer = microvm.request("POST", "/aws/lambda-microvms/runtime/v1/suspend", port=9000)
    assert (answer.status_code, answer.content) == (502, b"")
    assert _names(microvm) == before


def test_an_application_that_is_never_ready(service: Service) -> None:
    image = service.begin_image(
        "never-ready",
        FILES,
        hooks=_hooks(readyTimeoutInSeconds=2),
        environmentVariables={"READY_AFTER": "1000000"},
    )
    assert service.built(image) == "FAILED"
    assert service.build(image)["stateReason"] == "Ready hook invocation timed out after PT2S"
    with pytest.raises(service.api.exceptions.ResourceNotFoundException):
        service.run(image)


def test_a_dockerfile_that_fails(service: Service) -> None:
    dockerfile = b"FROM microvmd/python:3\nRUN echo it goes wrong here && exit 3\n"
    image = service.begin_image("wrong", {"Dockerfile": dockerfile})
    assert service.built(image) == "FAILED"
    assert service.build(image)["stateReason"] == "The container image build failed."
    assert any("it goes wrong here" in line for line in service.build_lines(image))


def test_a_program_that_cannot_be_started(service: Service) -> None:
    dockerfile = b'FROM scratch\nCOPY note /note\nENTRYPOINT ["/note"]\n'
    image = service.begin_image("note", {"Dockerfile": dockerfile, "note": b"no program"})
    assert service.built(image) == "FAILED"
    reason = service.build(image)["stateReason"]
    assert reason.startswith("The application cannot be started: ")
    assert "/note" in reason
