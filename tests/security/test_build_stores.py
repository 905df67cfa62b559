"""What builds keep for later ones, layers and caches: bounded, and no way between accounts."""

from pathlib import Path

import pytest

from microvmd.build import layers
from microvmd.build.layers import LayerLimits
from tests import buildlab
from tests.security.buildsite import ACCOUNT, ATTACK, OTHER, Site, careless, run

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(280)]


def test_layers_that_are_too_large_are_not_kept(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        step = f"{ATTACK}RUN /attack fill /big 60\n"
        await here.build(step)
        (mine,) = (here.cache / "layers" / ACCOUNT).glob("*/namespace")
        await here.build("FROM tiny\nRUN true\n", account=OTHER)
        both = LayerLimits(account_bytes=1 << 30, total_bytes=40 << 20)
        await here.build("FROM tiny\nRUN echo again\n", account=OTHER, limits=both)
        assert not mine.exists()
        await here.build(step, limits=LayerLimits(account_bytes=40 << 20))
        assert not mine.exists()

    run(tmp_path, test)


def test_equal_content_of_others_poisons_nothing(tmp_path: Path) -> None:
    """Equal text, sizes and times; what differs is content, account or image."""

    async def test(here: Site) -> None:
        poison = "FROM tiny\nCOPY f /f\nRUN --mount=type=cache,id=c,target=/c cat /f > /c/g\n"
        await here.build(poison, {"f": b"evil\n"})
        # Another image of the account: other content under the same name, size and time.
        rootfs = await here.build("FROM tiny\nCOPY f /f\nRUN cat /f\n", {"f": b"good\n"})
        assert (buildlab.unpacked(rootfs.erofs, tmp_path) / "f").read_text() == "good\n"
        reason = await here.refused("FROM tiny\nRUN --mount=type=cache,id=c,target=/c cat /c/g\n")
        assert "/c/g: No such file" in reason
        # The account's own build has layers to use again; another account has none of them.
        here.lines.clear()
        await here.build(poison, {"f": b"evil\n"})
        assert "Using cache" in here.log
        here.lines.clear()
        await here.build(poison, {"f": b"evil\n"}, account=OTHER)
        assert "Using cache" not in here.log

    run(tmp_path, test)


VICTIM = "FROM tiny\nCOPY f /f\n"
POISON = """FROM tiny
COPY evil /evil
RUN for each in /store/storage/overlay/*/diff/f; do cat /evil > $each; done
"""


def test_a_layer_store_that_was_written_to_poisons_its_account_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a step that has left its container. The others are poisoned where all have one store."""
    leaky = careless(tmp_path, volumes=("/build/store:/store",))

    async def built(here: Site, account: str) -> str:
        rootfs = await here.build(VICTIM, {"f": b"good\n"}, account=account)
        return (buildlab.unpacked(rootfs.erofs, tmp_path) / "f").read_text()

    async def test(here: Site) -> None:
        assert await built(here, ACCOUNT) == "good\n"
        await here.build(POISON, {"evil": b"evil\n"}, leaky)
        assert await built(here, ACCOUNT) == "evil\n"
        assert await built(here, OTHER) == "good\n"
        (shared,) = (here.cache / "layers" / ACCOUNT).glob("*.lock")
        monkeypatch.setattr(layers, "place", lambda *_: shared.with_suffix(""))
        assert await built(here, OTHER) == "evil\n"

    run(tmp_path, test)


KEPT_CACHE = (
    ('"TMPDIR": str(WORK / "tmp")', '"TMPDIR": str(STORE / "tmp")'),
    ("    space = Space()\n", '    (STORE / "tmp").mkdir(exist_ok=True)\n    space = Space()\n'),
)


def test_a_cache_mount_is_empty_in_every_build(tmp_path: Path) -> None:
    """Where it is kept, what one image's build put there is what another's runs."""
    poison = "FROM tiny\nRUN --mount=type=cache,id=c,target=/c echo evil > /c/g\n"
    victim = "FROM tiny\nRUN --mount=type=cache,id=c,target=/c cat /c/g\n"
    keeping = careless(tmp_path, *KEPT_CACHE)

    async def test(here: Site) -> None:
        await here.build(poison)
        assert "/c/g: No such file" in await here.refused(victim)
        await here.build(poison, shop=keeping, account=OTHER)
        here.lines.clear()
        await here.build(victim, shop=keeping, account=OTHER)
        assert "evil" in here.lines

    run(tmp_path, test)
