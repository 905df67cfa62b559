"""The commands' tables, and what they ask for."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from microvmd.cli.client import Service
from microvmd.cli.main import app

MANAGED = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector"
ANSWER: dict[str, Any] = {
    "egressNetworkConnectors": [f"{MANAGED}:INTERNET_EGRESS", "arn:own"],
    "internet": True,
    "names": "any",
    "reaches": [
        {
            "connector": "nc-1:1",
            "network": "10.0.0.0/8",
            "protocol": "all",
            "ports": [],
            "names": [],
        },
        {
            "connector": "nc-2:1",
            "network": "0.0.0.0/0",
            "protocol": "tcp",
            "ports": ["80", "443"],
            "names": ["*.a.test"],
        },
    ],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the service was asked for, without one."""
    found: list[tuple[Any, ...]] = []

    def ask(_: Service, *given: Any) -> dict[str, Any]:
        found.append(given)
        return ANSWER | {"microvms": 3}

    monkeypatch.setattr(Service, "ask", ask)
    monkeypatch.setattr(Service, "find_microvm", lambda _, text: f"microvm-{text}")
    monkeypatch.setattr(Service, "region", "us-east-1")
    return found


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_is_reached(asked: list[tuple[Any, ...]]) -> None:
    lines = [line.split() for line in said("egress", "1").splitlines()]
    assert asked == [("GET", "/microvms/microvm-1/egress")]
    assert ["public", "addresses", "tcp", "all", "any", "INTERNET_EGRESS"] in lines
    assert ["10.0.0.0/8", "all", "all", "any", "nc-1:1"] in lines
    assert ["0.0.0.0/0", "tcp", "80", "443", "*.a.test", "nc-2:1"] in lines


def test_a_change_takes_names_of_managed_connectors(asked: list[tuple[Any, ...]]) -> None:
    assert json.loads(said("egress", "1", "--set", "NO_EGRESS", "--set", "arn:own", "--json"))
    body = {"egressNetworkConnectors": [f"{MANAGED}:NO_EGRESS", "arn:own"]}
    assert asked == [("PUT", "/microvms/microvm-1/egress", body)]


def test_a_reload(asked: list[tuple[Any, ...]]) -> None:
    assert said("network", "reload") == "3 MicroVMs keep to it\n"
    assert asked == [("POST", "/network/reload", {})]
