"""What a page can ask for: operations with the rights of its reader, forms within bounds."""

import json
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response

from microvmd.console.page import Page, PageRoute
from microvmd.console.visit import FORM_FIELDS, FORM_LIMIT, Visit
from tests.consolelab import ConsoleLab, console_lab

pytestmark = pytest.mark.anyio
ONLY_LIST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "lambda:ListMicrovms", "Resource": "*"},
    }
)


async def _operation(visit: Visit) -> Response:
    given = json.loads(visit.query("given", "{}"))
    return JSONResponse(await visit.ask(visit.path("name"), **given))


async def _form(visit: Visit) -> Response:
    return JSONResponse(await visit.form())


async def _service(visit: Visit) -> Response:
    return JSONResponse(await visit.service("GET", f"/{visit.path('name')}"))


PAGE = Page(
    (
        PageRoute("/ask/{name}", _operation),
        PageRoute("/form", _form, method="POST"),
        PageRoute("/service/{name}", _service),
    )
)


async def test_rights_and_rules_are_those_of_a_signed_request(tmp_path: Path) -> None:
    async with console_lab(tmp_path, more=[PAGE]) as lab:
        ann = await lab.logged_in(await lab.user("ann", ONLY_LIST))
        assert (await ann.get("/ask/ListMicrovms")).json() == {"items": [], "nextToken": None}
        refused = await ann.get("/ask/ListMicrovmImages")
        assert refused.status_code == 403
        assert "lambda:ListMicrovmImages" in refused.text
        invalid = await ann.get('/ask/ListMicrovms?given={"maxResults":0}')
        assert invalid.status_code == 400
        assert "validation error detected" in invalid.text
        missing = await ann.get("/ask/Nothing")
        assert missing.status_code == 404
        await lab.who.accounts.remove_policy("000000000000", "ann", "own")
        assert (await ann.get("/ask/ListMicrovms")).status_code == 403, "at once"


async def test_own_routes_know_who_asks(tmp_path: Path) -> None:
    async with console_lab(tmp_path, more=[PAGE]) as lab:
        browser = await lab.logged_in()
        assert (await browser.get("/service/health")).json()["status"] == "ok"
        assert (await browser.get("/service/nothing")).status_code == 404


async def test_forms_are_bounded(tmp_path: Path) -> None:
    async with console_lab(tmp_path, more=[PAGE]) as lab:
        browser = await lab.logged_in()
        header = {"x-csrf-token": browser.csrf}
        answer = await browser.post("/form", {"a": "1\r\n2", "b": ""}, **header)
        assert answer.json() == {"csrf": [browser.csrf], "a": ["1\n2"], "b": [""]}
        big = await browser.post("/form", {"a": "x" * FORM_LIMIT}, **header)
        assert big.status_code == 413
        many = {str(number): "" for number in range(FORM_FIELDS + 1)}
        assert (await browser.post("/form", many, **header)).status_code == 400


async def test_the_first_page_is_a_page(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    for path in ("", "/"):
        answer = await browser.get(path)
        assert answer.status_code == 303
        there = await browser.client.get(answer.headers["location"])
        assert there.status_code == 200
