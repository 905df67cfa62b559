"""Files of pages: kept for long under the name of their content, else asked for by ETag."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from microvmd.console.assets import Assets, Files

pytestmark = pytest.mark.anyio


async def test_how_long_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    app = Starlette(routes=[Mount("/vendor", Files(tmp_path)), Mount("/no", Files(tmp_path / "x"))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        named = await client.get("/vendor/a.js?v=1")
        assert "immutable" in named.headers["cache-control"]
        assert named.headers["content-type"].startswith("text/javascript")
        plain = await client.get("/vendor/a.js")
        assert "no-cache" in plain.headers["cache-control"]
        known = {"if-none-match": plain.headers["etag"]}
        assert (await client.get("/vendor/a.js", headers=known)).status_code == 304
        missing = await client.get("/vendor/b.js")
        assert (missing.status_code, missing.headers.get("cache-control")) != (200, "immutable")
        assert (await client.get("/no/a.js")).status_code == 404
        for path in ("/vendor/../secret", "/vendor/%2e%2e/secret", "/vendor/%2fetc/passwd"):
            assert (await client.get(path)).status_code == 404


def test_names_carry_the_digest_of_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    first = Assets(tmp_path).url("vendor/a.js")
    (tmp_path / "a.js").write_text("2")
    second = Assets(tmp_path).url("vendor/a.js")
    assert first != second
    assert first.startswith("/console/assets/vendor/a.js?v=")
    assert Assets(tmp_path).url("vendor/none.js") == "/console/assets/vendor/none.js"
