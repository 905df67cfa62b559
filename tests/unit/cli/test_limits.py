"""The command's tables and its page."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from microvmd.cli.client import Service
from microvmd.cli.limits import limits_page
from microvmd.cli.main import app
from microvmd.settings.settings import LimitSettings

ANSWER: dict[str, Any] = {
    "account": "123456789012",
    "quotas": {
        "memory_mib": {"limit": 4096, "used": 2048, "left": 2048},
        "images": {"limit": None, "used": 1, "left": None},
    },
    "rates": {"RunMicrovm": {"per_second": 5.0, "free": 2.7, "waiting": 3}},
    "machine": {
        "memory_mib": 24_000,
        "available_mib": 20_000,
        "disk_mib": 1,
        "disk_free_mib": 1,
        "microvms": 4,
        "builds": 1,
        "waiting_vmms": 2,
        "baseline_mib": 10_240,
        "left_mib": 19_000,
        "reserve_mib": 512,
        "overcommit": None,
        "disk_reserve_mib": 1024,
    },
}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the service answers, without one."""
    found = dict(ANSWER)
    monkeypatch.setattr(Service, "ask", lambda *_: found)
    return found


def _said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["limits", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_tables(answer: dict[str, Any]) -> None:
    lines = [line.split() for line in _said().splitlines()]
    assert ["memory", "mib", "4096", "2048", "2048"] in lines
    assert ["images", "no", "limit", "1"] in lines
    assert ["RunMicrovm", "5/s", "3", "wait", "2"] in lines
    assert lines[-2][:7] == ["on", "it", "4", "MicroVMs", "and", "1", "builds,"]


def test_a_user_sees_no_machine(answer: dict[str, Any]) -> None:
    answer["machine"] = None
    assert "MACHINE" not in _said()


def test_json(answer: dict[str, Any]) -> None:
    assert json.loads(_said("--json")) == ANSWER


def test_the_page_has_every_setting_of_limits() -> None:
    page = _said("--markdown")
    assert page == limits_page() + "\n"
    for name in LimitSettings.model_fields:
        assert f"limits.{name}`" in page, name
