"""The machine: health for all, how full it is for the operator."""

import pytest

from microvmd.console.inner import Refused
from microvmd.console.pages.nodes import _checks
from tests.consolelab import ConsoleLab

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


def test_what_is_the_matter_is_told() -> None:
    assert _checks(Refused(503, "Refused", '{"checks": {"edge": "gone"}}')) == {"edge": "gone"}
    assert _checks(Refused(503, "Refused", "torn {")) == {"what is the matter": "torn {"}
