"""How an event looks as one line."""

import re
from dataclasses import replace

import pytest

from microvmd.cli.events import shown
from microvmd.model.event import SERVICE, Actor, ActorKind, Event, StateChange, microvm_change
from microvmd.model.event import Kind as EventKind
from tests.unit.control.test_store import microvm

ANN = Actor(ActorKind.CALLER, "arn:aws:iam::000000000000:user/ann")
IMAGE = StateChange(
    EventKind.VERSION,
    "000000000000",
    "us-east-1",
    "app",
    ("arn",),
    "IN_PROGRESS",
    "FAILED",
    "no Dockerfile",
    {"name": "app", "imageVersion": "1.0"},
)


@pytest.mark.parametrize(
    ("change", "actor", "text"),
    [
        (microvm_change(None, microvm(1)), ANN, f"microvm-1  PENDING  by {ANN.principal}"),
        (
            replace(IMAGE, kind=EventKind.BUILD, detail={**IMAGE.detail, "buildId": "b-1"}),
            SERVICE,
            "app 1.0 build b-1  IN_PROGRESS -> FAILED (no Dockerfile)  by service",
        ),
        (IMAGE, SERVICE, "app 1.0  IN_PROGRESS -> FAILED (no Dockerfile)  by service"),
    ],
)
def test_one_line(change: StateChange, actor: Actor, text: str) -> None:
    line = shown(Event(1, "e", 0.0, change, actor).envelope())
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  {re.escape(text)}", line), line
