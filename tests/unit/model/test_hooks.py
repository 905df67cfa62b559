"""Hooks: defaults, the ready rule, and the recorded texts."""

import json

import pytest

from microvmd.model.errors import ValidationError
from microvmd.model.hooks import (
    HookAnswer,
    HookName,
    Hooks,
    build_failure_reason,
    failure_reason,
    iso_duration,
    run_body,
)


def test_what_was_not_said_is_off_and_has_defaults() -> None:
    hooks = Hooks.from_request(None)
    assert not hooks.any_enabled
    assert (hooks.effective_port, hooks.timeout_s(HookName.READY)) == (9000, 30)
    assert hooks.timeout_s(HookName.RUN) == 1


def test_request_is_read() -> None:
    hooks = Hooks.from_request(
        {
            "port": 8000,
            "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 300},
            "microvmHooks": {"run": "ENABLED", "suspend": "DISABLED"},
        }
    )
    assert (hooks.port, hooks.timeout_s(HookName.READY)) == (8000, 300)
    assert [name for name in HookName if hooks.enabled(name)] == [HookName.READY, HookName.RUN]


def test_microvm_hook_without_ready_is_refused_as_recorded() -> None:
    with pytest.raises(ValidationError, match=r"The ready \(/ready\) MicroVM image hook must be"):
        Hooks.from_request({"microvmHooks": {"run": "ENABLED"}})


@pytest.mark.parametrize(
    ("name", "answer", "text"),
    [
        (HookName.RUN, HookAnswer(400), "Run lifecycle hook returned HTTP status 400."),
        (HookName.SUSPEND, HookAnswer(500), "Suspend lifecycle hook returned HTTP status 500."),
        (HookName.RUN, HookAnswer(None, "timeout"), "Run lifecycle hook timed out."),
        (HookName.RUN, HookAnswer(None, "refused"), "Run lifecycle hook could not be reached."),
    ],
)
def test_failure_reason(name: HookName, answer: HookAnswer, text: str) -> None:
    assert failure_reason(name, answer) == (
        f"{text} Please check your hook endpoint and application logs for more details."
    )


def test_build_failure_reason() -> None:
    late = HookAnswer(503)
    assert build_failure_reason(HookName.READY, late, 300) == (
        "Ready hook invocation timed out after PT5M"
    )
    assert build_failure_reason(HookName.VALIDATE, HookAnswer(500), 30) == (
        "Validate hook returned HTTP status 500"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "PT0S"), (30, "PT30S"), (300, "PT5M"), (3661, "PT1H1M1S")]
)
def test_iso_duration(seconds: int, text: str) -> None:
    assert iso_duration(seconds) == text


def test_polled_hooks_are_asked_again() -> None:
    assert HookAnswer(503).again(HookName.READY)
    assert HookAnswer(None, "refused").again(HookName.VALIDATE)
    assert not HookAnswer(503).again(HookName.RUN)
    assert not HookAnswer(500).again(HookName.READY)


def test_run_body_wraps_the_payload() -> None:
    """Without blanks, as the real service's length of one told."""
    body = run_body("microvm-1", '{"a":1}')
    assert body == r'{"microvmId":"microvm-1","runHookPayload":"{\"a\":1}"}'
    assert json.loads(json.loads(body)["runHookPayload"]) == {"a": 1}


@pytest.mark.parametrize(
    ("port", "state", "closed"),
    [
        (None, "ENABLED", 9000),
        (9001, "ENABLED", 9001),
        (8080, "ENABLED", None),
        (9000, "DISABLED", None),
    ],
)
def test_the_hook_port_is_closed_unless_the_application_shares_it(
    port: int | None, state: str, closed: int | None
) -> None:
    hooks = Hooks.from_request({"port": port, "microvmImageHooks": {"ready": state}})
    assert hooks.closed_port == closed


def test_a_closed_port_that_is_exposed_is_told() -> None:
    hooks = Hooks.from_request({"port": 3000, "microvmImageHooks": {"ready": "ENABLED"}})
    told = hooks.unreachable((80, 3000))
    assert told is not None
    assert told.startswith("port 3000 answers hooks and is closed to the outside")
    assert hooks.unreachable((8080,)) is None
    assert Hooks.from_request({"port": 3000}).unreachable((3000,)) is None
