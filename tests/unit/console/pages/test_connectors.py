"""Connectors in the console: made, looked at, deleted."""

import pytest

from tests.consolelab import ConsoleLab

pytestmark = pytest.mark.anyio


async def test_from_made_to_deleted(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    assert "No connectors of your own" in (await browser.get("/connectors")).text
    fields = {
        "name": "office",
        "subnets": "subnet-0a1b2c3d",
        "groups": "",
        "role": "arn:aws:iam::000000000000:role/network",
        "token": "t" * 32,
    }
    made = await browser.post("/connectors", fields)
    assert made.headers["location"] == "/console/connectors/office"
    assert "office" in (await browser.get("/connectors")).text
    page = (await browser.get("/connectors/office")).text
    assert "subnet-0a1b2c3d" in page
    assert "PENDING" in page
    again = await browser.post("/connectors", {**fields, "token": "u" * 32})
    assert again.status_code == 409


async def test_what_is_wrong_is_told(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    wrong = {"name": "<b>x", "subnets": "not a subnet"}
    answer = await browser.post("/connectors", wrong)
    assert answer.status_code == 400
    part = await browser.post("/connectors", wrong, **{"hx-request": "true"})
    assert part.status_code == 200
    assert part.text.startswith('<p class="notice bad">')
    assert "<b>" not in part.text
    assert (await browser.get("/connectors/nothing")).status_code == 404
