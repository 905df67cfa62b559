"""Usage as a page and as a file, and the limits beside it."""

import csv
import io
import time

import pytest

from microvmd.console.pages.usage import _safe
from tests.consolelab import ConsoleLab
from tests.unit.console.pages.test_microvms import started

pytestmark = pytest.mark.anyio


async def test_nothing_was_used(lab: ConsoleLab) -> None:
    page = (await (await lab.logged_in()).get("/usage")).text
    assert "Nothing was used" in page
    assert "RunMicrovm" in page
    assert "no limit" in page or " of " in page


async def test_a_page_and_a_file(lab: ConsoleLab) -> None:
    lab.plane.clock.now = time.time()
    (microvm,) = await started(lab)
    lab.plane.clock.now += 600
    await lab.plane.microvms.terminate("000000000000", microvm)
    browser = await lab.logged_in()
    page = (await browser.get("/usage?by=microvm&days=365")).text
    assert microvm in page
    answer = await browser.get("/usage.csv?by=microvm&days=365")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["key"] == microvm


async def test_what_cannot_be_asked_is_told(lab: ConsoleLab) -> None:
    answer = await (await lab.logged_in()).get("/usage?by=colour")
    assert answer.status_code == 400


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x"])
def test_no_tag_is_a_formula(text: str) -> None:
    assert _safe(text) == f"'{text}"
    assert _safe(3) == 3
