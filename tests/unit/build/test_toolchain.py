"""The builder root: its name follows its content, and a half-made one is never seen."""

import asyncio
from pathlib import Path

import pytest

from microvmd.build import inside, toolchain


def test_what_is_put_into_the_root_decides_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = toolchain._recipe_digest()
    assert before == toolchain._recipe_digest()
    monkeypatch.setattr(toolchain, "_inside_source", lambda: "print()")
    assert toolchain._recipe_digest() != before


def test_the_root_is_furnished(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 1\n")
    toolchain._furnish(tmp_path)
    program = tmp_path / toolchain.INSIDE[1:]
    assert program.read_text() == Path(inside.__file__).read_text()
    assert (tmp_path / "etc/resolv.conf").readlink() == Path("/run/resolv.conf")
    assert (tmp_path / "build/store").is_dir()
    assert (tmp_path / "build/output").is_file()


def test_a_cached_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    home = tmp_path / "cache" / "thing"

    async def make(*, fail: bool) -> bool:
        async with toolchain._building(home, "thing", print) as scratch:
            if scratch is None:
                return False
            (scratch / "part").write_text("x")
            assert not home.exists()
            if fail:
                raise RuntimeError("broken")
            return True

    async def main() -> None:
        (tmp_path / "cache" / ".making-thing").mkdir(parents=True)
        (tmp_path / "cache" / ".making-thing" / "old").touch()
        with pytest.raises(RuntimeError):
            await make(fail=True)
        assert [path.name for path in home.parent.iterdir()] == ["thing.lock"]
        assert await make(fail=False)
        assert [path.name for path in home.iterdir()] == ["part"]
        assert not await make(fail=False)

    asyncio.run(main())
