"""The creation workflow: nothing that was typed is lost, uploads are looked into and bounded."""

import io
import re
import zipfile
from pathlib import Path

import pytest

from microvmd.settings.console import ConsoleSettings
from tests.consolelab import SAME, Browser, ConsoleLab, console_lab
from tests.unit.control.plane import ACCOUNT, CREATE

pytestmark = pytest.mark.anyio
FIELDS = {
    "name": "app",
    "kind": "s3",
    "s3_uri": "s3://bucket/app.zip",
    "base": CREATE["baseImageArn"],
    "role": CREATE["buildRoleArn"],
    "memory": "1024",
    "hook.ready": "on",
    "timeout.ready": "45",
    "hook_port": "9001",
    "env_name": "A",
    "env_value": "one & two",
    "tag_name": "team",
    "tag_value": "platform",
    "logging": "disabled",
}


def _zip(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return out.getvalue()


async def _send(browser: Browser, content: bytes, name: str = "app") -> str:
    headers = {**SAME, "x-csrf-token": browser.csrf, "hx-request": "true"}
    path = f"/console/uploads?name={name}"
    answer = await browser.client.post(path, content=content, headers=headers)
    assert answer.status_code >= 400
    return answer.text


async def test_an_image_with_everything(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    answer = await browser.post("/new-image", FIELDS)
    assert answer.headers["location"] == "/console/images/app/versions/1.0"
    page = (await browser.get("/images/app/versions/1.0")).text
    for shown in ("s3://bucket/app.zip", "1024 MiB", "port 9001", "/ready 45 s"):
        assert shown in page
    assert "A=one &amp; two" in page
    assert "team=platform" in (await browser.get("/images/app")).text


async def test_the_same_form_makes_one_image(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    token = re.findall(r'name="token" value="([^"]+)"', (await browser.get("/new-image")).text)[0]
    places = [
        (await browser.post("/new-image", {**FIELDS, "token": token})).headers["location"]
        for _ in range(2)
    ]
    assert places == ["/console/images/app/versions/1.0"] * 2


@pytest.mark.parametrize(
    ("wrong", "words", "step"),
    [
        ({"name": "no spaces"}, "failed to satisfy constraint", "source"),
        ({"s3_uri": ""}, "Give an s3:// URI", "source"),
        ({"memory": "3"}, "not supported", "machine"),
        ({"hook_port": "x"}, "whole number", "hooks"),
        ({"hook.ready": "", "hook.run": "on"}, "/ready", "hooks"),
        ({"env_name": ""}, "no name", "environment"),
    ],
)
async def test_a_refusal_keeps_what_was_typed(
    lab: ConsoleLab, wrong: dict[str, str], words: str, step: str
) -> None:
    browser = await lab.logged_in()
    answer = await browser.post("/new-image", {**FIELDS, **wrong})
    assert answer.status_code == 400
    assert words in answer.text
    assert f'data-step="{step}"' in answer.text
    for name, value in {**FIELDS, **wrong}.items():
        if name in ("name", "s3_uri", "role", "hook_port", "timeout.ready", "tag_value"):
            assert f'value="{value}"' in answer.text or value in answer.text, name
    assert "one &amp; two" in answer.text
    mended = await browser.post("/new-image", FIELDS)
    assert mended.status_code == 303


async def test_another_version_begins_like_the_last(lab: ConsoleLab) -> None:
    await lab.plane.built(environmentVariables={"MODE": "fast"})
    browser = await lab.logged_in()
    page = (await browser.get("/new-image?of=app&version=1.0")).text
    assert "New version of app" in page
    for shown in ("s3://bucket/app.zip", "MODE", "fast", CREATE["buildRoleArn"]):
        assert shown in page
    answer = await browser.post("/new-image?of=app", {**FIELDS, "s3_uri": "s3://bucket/2.zip"})
    assert answer.headers["location"] == "/console/images/app/versions/2.0"


async def test_uploads_are_looked_into(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    assert "not a zip file" in await _send(browser, b"nothing")
    assert "not a zip file" in await _send(browser, b"")
    assert "no Dockerfile at the top" in await _send(browser, _zip(readme="x"))
    inside = await _send(browser, _zip(app__Dockerfile="FROM x"))
    assert "There is app/Dockerfile" in inside
    assert "Give the image a name" in await _send(browser, _zip(Dockerfile="FROM x"), name="a b")


async def test_uploads_are_bounded(tmp_path: Path) -> None:
    async with console_lab(tmp_path, console=ConsoleSettings(upload_mib=1)) as lab:
        browser = await lab.logged_in()
        assert "1048576 bytes" in await _send(browser, b"x" * ((1 << 20) + 1))


async def test_uploads_need_the_token_in_the_header(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    answer = await browser.client.post("/console/uploads", content=b"x", headers=SAME)
    assert answer.status_code == 403
    assert ACCOUNT not in answer.text.split("<main")[1]


async def test_examples_are_offered(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    page = (await browser.get("/new-image")).text
    assert 'name="example" value="hello"' in page
    assert "A Flask application with a counter in memory" in page
    answer = await browser.post("/new-image", {**FIELDS, "kind": "example", "example": "../x"})
    assert answer.status_code == 400
    assert "no example" in answer.text
