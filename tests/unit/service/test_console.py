"""The console is there unless the operator wants none."""

from pathlib import Path

import pytest

from microvmd.service.console import read_by_pages
from microvmd.settings.console import ConsoleSettings
from microvmd.settings.settings import Settings
from tests.consolelab import console_lab


@pytest.mark.anyio
async def test_it_can_be_turned_off(tmp_path: Path) -> None:
    off = ConsoleSettings(enabled=False)
    async with console_lab(tmp_path, console=off) as lab:
        answer = await lab.browser().get("/login")
        assert answer.status_code == 403
        assert "x-amzn-requestid" in answer.headers, "AWS's own answer to what is not signed"
        assert (await lab.signed("POST", "/console/links")).status_code == 404


def test_what_pages_read_outside_the_code(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, assets=tmp_path / "assets")
    assert [path.name for path in read_by_pages(settings)] == ["examples"]
    (tmp_path / "assets" / "console").mkdir(parents=True)
    assert [path.name for path in read_by_pages(settings)] == ["console", "examples"]


@pytest.mark.anyio
async def test_vendored_files_are_served(tmp_path: Path) -> None:
    folder = tmp_path / "assets" / "console"
    folder.mkdir(parents=True)
    (folder / "htmx.min.js").write_text("1")
    async with console_lab(tmp_path) as lab:
        answer = await lab.browser().get("/assets/vendor/htmx.min.js")
        assert (answer.status_code, answer.text) == (200, "1")
        assert "/console/assets/vendor/htmx.min.js?v=" in (await lab.browser().get("/login")).text
