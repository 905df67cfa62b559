"""The table of what MicroVMs use: changes put together, order, cells."""

from typing import Any

import pytest

from microvmd.cli.client import Service
from microvmd.cli.top import Looking, Sort, cells_of, countdown, in_order
from microvmd.settings.settings import Settings

NOW = 10_000.0


def _row(number: int, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "microvm": f"microvm-{number:08}-rest",
        "state": "RUNNING",
        "image": "app",
        "version": "1.0",
        "started_at": 9000 + number,
        "idle_at": None,
        "baseline": 512,
        "memory": None,
        "cpu": None,
        "rate": None,
    }
    return {**row, **more}


def _looking() -> Looking:
    return Looking(Service(Settings()))


def test_changes_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []
    order = [_row(2)["microvm"], _row(1)["microvm"]]
    answers = [
        {"version": "a", "rows": [_row(1), _row(2)], "microvms": order},
        {"version": "b", "rows": [_row(2, cpu=7)], "microvms": None},
    ]

    def ask(_: Service, method: str, path: str, query: dict[str, str]) -> Any:
        assert (method, path) == ("GET", "/live")
        asked.append(query)
        return answers[len(asked) - 1]

    monkeypatch.setattr(Service, "ask", ask)
    looking = _looking()
    assert [row["cpu"] for row in looking.look()] == [None, None]
    assert [row["cpu"] for row in looking.look()] == [7, None]
    assert asked == [{}, {"after": "a"}]


def test_who_has_ended_is_gone() -> None:
    looking = _looking()
    looking.take({"version": "a", "rows": [_row(1), _row(2)], "microvms": []})
    looking.take({"version": "b", "rows": [], "microvms": [_row(2)["microvm"]]})
    assert list(looking._rows) == []
    looking.take({"version": "c", "rows": [_row(3)], "microvms": [_row(3)["microvm"]]})
    assert list(looking._rows) == [_row(3)["microvm"]]


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        (Sort.CPU, 1),
        (Sort.MEMORY, 2),
        (Sort.REQUESTS, 3),
        (Sort.IDLE, 2),
        (Sort.AGE, 1),
    ],
)
def test_order(sort: Sort, first: int) -> None:
    rows = [
        _row(3, rate=4.0, idle_at=10_500),
        _row(2, memory=100, idle_at=10_100),
        _row(1, cpu=50),
    ]
    assert in_order(list(rows), sort)[0]["microvm"] == _row(first)["microvm"]


def test_cells() -> None:
    used = _row(1, cpu=150, memory=300, rate=2.25, idle_at=10_065, started_at=6400)
    (shown,) = cells_of([_row(2), used], Sort.CPU, 1, NOW)
    assert shown == (
        *("microvm-00000001", "RUNNING", "150", "300 of 512 MiB", "2.2", "1:05", "1:00:00"),
        "app 1.0",
    )
    unknown = cells_of([_row(2)], Sort.CPU, 9, NOW)[0]
    assert unknown[2:6] == ("-", "-", "-", "-")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.9, "59 s"), (60, "1:00"), (3599, "59:59"), (3661, "1:01:01")],
)
def test_countdown(seconds: float, text: str) -> None:
    assert countdown(seconds) == text
