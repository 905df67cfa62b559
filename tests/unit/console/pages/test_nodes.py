"""The machine: health for all, how full it is for the operator."""

from pathlib import Path

import pytest

from tests.consolelab import ConsoleLab, console_lab

pytestmark = pytest.mark.anyio

EVERYTHING = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}'


async def test_for_the_operator(lab: ConsoleLab) -> None:
    page = (await (await lab.logged_in()).get("/nodes")).text
    assert "accelerator" in page
    assert "MiB free" in page
    assert "state good" in page


async def test_others_see_health_alone(lab: ConsoleLab) -> None:
    ann = await lab.logged_in(await lab.user("ann", EVERYTHING))
    part = (await ann.get("/nodes/facts", **{"hx-request": "true"})).text
    assert "MiB free" not in part
    assert "state good" in part


async def test_what_is_the_matter_is_told_in_full(tmp_path: Path) -> None:
    matter = "<b>the edge</b> does not answer: " + "x" * 300 + " as its log says"

    async def ask_edge() -> None:
        raise OSError(matter)

    async with console_lab(tmp_path, ask_edge=ask_edge) as lab:
        page = (await (await lab.logged_in()).get("/nodes")).text
        assert "degraded" in page
        assert "as its log says" in page
        assert "<b>the edge" not in page
