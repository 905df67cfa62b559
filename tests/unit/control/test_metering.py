"""Usage over the life of real decisions, and its sums by MicroVM, image and tag."""

import asyncio
from pathlib import Path

import pytest

from microvmd.control import metering as metering_module
from microvmd.control.metering import Line, Metering, forget_old_usage
from microvmd.messages.node import Started, Suspended, Terminated
from microvmd.model.errors import ValidationError
from microvmd.model.metering import HOUR_S, Prices, Usage
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio

STORED = 1 << 30


async def _lines(opened: Plane, by: str = "microvm", account: str = ACCOUNT) -> list[Line]:
    return await Metering(opened.store, Prices()).lines(account, 0, opened.clock.now, by)


async def _life(opened: Plane) -> str:
    """100 s running, 1000 s suspended, 50 s running again."""
    made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
    name = made.microvm_id
    opened.clock.now += 5
    await opened.microvms.report(Started(name, 1, "10.0.0.1"))
    opened.clock.now += 100
    await opened.microvms.suspend(ACCOUNT, name)
    await opened.microvms.report(Suspended(name, 1, stored_bytes=STORED))
    opened.clock.now += 1000
    await opened.microvms.resume(ACCOUNT, name)
    await opened.microvms.report(Started(name, 2, "10.0.0.1"))
    opened.clock.now += 50
    return name


async def test_the_life_of_one(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.built()
        name = await _life(opened)
        (line,) = await _lines(opened)
        # A build of the plane has 1 byte of memory and 3 of disk.
        wanted = Usage(150, 1000, 150, 300, 4 + STORED, STORED, 1000)
        assert (line.key, line.microvms, line.usage) == (name, 1, wanted)
        assert line.cost == Prices().cost(wanted)
        await opened.microvms.terminate(ACCOUNT, name)
        await opened.microvms.report(Terminated(name, 2))
        opened.clock.now += 5000
        assert (await _lines(opened))[0].usage == wanted


async def test_sums(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.built(tags={"team": "blue"})
        for _ in range(3):
            await _life(opened)
        images = await _lines(opened, "image")
        assert [(line.key, line.microvms) for line in images] == [(IMAGE_ARN, 3)]
        teams = await _lines(opened, "tag:team")
        assert [(line.key, line.usage) for line in teams] == [("blue", images[0].usage)]
        assert [line.key for line in await _lines(opened, "tag:else")] == ["-"]
        assert await _lines(opened, account="111122223333") == []


async def test_a_span_takes_whole_hours(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        await opened.built()
        opened.clock.now = 10.0 * HOUR_S - 20
        made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        await opened.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
        opened.clock.now = 12.0 * HOUR_S + 1
        metering = Metering(opened.store, Prices())
        for since, until, seconds in (
            (0, 9 * HOUR_S + 5, 20),
            (10 * HOUR_S + 1800, 10 * HOUR_S + 1801, HOUR_S),
            (9 * HOUR_S, 20 * HOUR_S, 2 * HOUR_S + 21),
        ):
            (line,) = await metering.lines(ACCOUNT, since, until, "image")
            assert line.usage.running_s == pytest.approx(seconds)


@pytest.mark.parametrize("by", ["", "tag:", "colour"])
async def test_what_cannot_be_asked(tmp_path: Path, by: str) -> None:
    async with plane(tmp_path) as opened:
        with pytest.raises(ValidationError, match="microvm, image or tag"):
            await _lines(opened, by)


async def test_old_hours_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering_module, "BATCH", 1)
    async with plane(tmp_path) as opened:
        await opened.built()
        name = await _life(opened)
        await opened.microvms.terminate(ACCOUNT, name)
        await opened.microvms.report(Terminated(name, 2))

        class Swept(Exception):
            """The first round is over."""

        async def stop(_: float) -> None:
            raise Swept

        monkeypatch.setattr(asyncio, "sleep", stop)
        with pytest.raises(Swept):
            await forget_old_usage(opened.store, 1.0, lambda: 1e9)
        assert await _lines(opened) == []
