"""Every change of a state is an event, with its actor; followers miss none and see none twice."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from microvmd.control import events as events_module
from microvmd.control.acting import acting
from microvmd.control.event_rows import EventQuery
from microvmd.control.events import Events, forget_before
from microvmd.messages.node import Started
from microvmd.model.errors import ApiError
from microvmd.model.event import Actor, ActorKind, Event, Kind
from microvmd.model.image import VersionStatus
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane
from tests.unit.control.test_connectors import request

pytestmark = pytest.mark.anyio

ANN = Actor(ActorKind.CALLER, f"arn:aws:iam::{ACCOUNT}:user/ann", "r-1")


async def _all(opened: Plane, **query: str | Kind) -> list[Event]:
    return await Events(opened.store).page(EventQuery(ACCOUNT, **query))  # type: ignore[arg-type]


def _states(found: list[Event]) -> list[tuple[str | None, str]]:
    return [(event.change.before, event.change.after) for event in found]


async def test_the_life_of_an_image(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.built()
        await opened.images.set_status(ACCOUNT, IMAGE_ARN, "1.0", VersionStatus.INACTIVE)
        found = await _all(opened, kind=Kind.VERSION)
        assert _states(found) == [
            (None, "PENDING"),
            ("PENDING", "IN_PROGRESS"),
            ("IN_PROGRESS", "SUCCESSFUL"),
            ("SUCCESSFUL", "SUCCESSFUL"),
        ]
        assert [event.change.detail["status"] for event in found][-2:] == ["ACTIVE", "INACTIVE"]
        assert _states(await _all(opened, kind=Kind.IMAGE)) == [
            (None, "CREATING"),
            ("CREATING", "CREATED"),
        ]


async def test_the_life_of_a_microvm_and_who_made_it(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.built()
        with acting(ANN):
            made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        with acting(Actor(ActorKind.NODE)):
            await opened.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
        opened.clock.now += made.maximum_duration_s + 1
        await opened.microvms.apply_due(opened.clock())
        found = await _all(opened, resource=made.microvm_id)
        assert _states(found) == [
            (None, "PENDING"),
            ("PENDING", "RUNNING"),
            ("RUNNING", "TERMINATING"),
        ]
        assert [event.actor.kind for event in found] == [
            ActorKind.CALLER,
            ActorKind.NODE,
            ActorKind.POLICY,
        ]
        assert found[0].actor == ANN
        assert found[-1].change.reason == "Maximum duration exceeded."


async def test_what_changes_nothing_leaves_no_event(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.built()
        made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        before = await _all(opened)
        with pytest.raises(ApiError):
            await opened.microvms.suspend(ACCOUNT, made.microvm_id)
        await opened.microvms.report(Started(made.microvm_id, 99, "10.0.0.1"))
        assert await _all(opened) == before


async def test_a_connector_has_events_too(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.connectors.create(ACCOUNT, request("office"))
        assert _states(await _all(opened, resource="office")) == [(None, "PENDING")]


async def test_accounts_see_their_own_only(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.built()
        assert await Events(opened.store).page(EventQuery("111122223333")) == []


async def test_a_follower_gets_each_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over the borders of pages, and while others are being written."""
    monkeypatch.setattr(events_module, "PAGE", 2)
    async with plane(tmp_path) as opened:
        await opened.built()
        events = Events(opened.store)
        seen: list[int] = []

        async def follow() -> None:
            async with aclosing(events.read(EventQuery(ACCOUNT), follow=True)) as stream:
                async for event in stream:
                    seen.append(event.sequence)
                    if len(seen) == 25:
                        return

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(follow())
            for _ in range(20):
                await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        assert seen == sorted(set(seen))
        assert len(seen) == 25
        assert await events.newest() == seen[-1]


async def test_old_ones_are_forgotten_and_numbers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "BATCH", 2)
    async with plane(tmp_path) as opened:
        await opened.built()
        events = Events(opened.store)
        last = await events.newest()
        assert await forget_before(opened.store, 1e12) == last
        assert await _all(opened) == []
        await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        assert [event.sequence for event in await _all(opened)] == [last + 1]
