"""The base store: names, aliases, what stays and what goes."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.build import oci
from microvmd.build.bases import RECIPES, BaseStore, InvalidName, UnknownBase, normalise
from microvmd.build.oci import InvalidImage
from tests.unit.build.test_oci import layout, tarball


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("docker.io/python:3", "docker.io/library/python:3"),
        ("index.docker.io/library/python", "docker.io/library/python:latest"),
        ("microvmd/python:3", "docker.io/microvmd/python:3"),
        (
            "public.ecr.aws/lambda/microvms:al2023-minimal",
            "public.ecr.aws/lambda/microvms:al2023-minimal",
        ),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("a@sha256:" + "0" * 64, "docker.io/library/a@sha256:" + "0" * 64),
    ],
)
def test_names_have_one_full_form(name: str, full: str) -> None:
    assert normalise(name) == full
    assert normalise(full) == full


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "../a", "a:", "a//b", "-a", "a@sha256:0", "x" * 600]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        normalise(name)


@given(st.text(max_size=60))
def test_a_full_name_is_stable(name: str) -> None:
    try:
        full = normalise(name)
    except InvalidName:
        return
    assert normalise(full) == full


def test_a_base_lives_by_its_names(tmp_path: Path) -> None:
    async def main() -> None:
        store = BaseStore(tmp_path / "bases")
        digest = await store.add("mine", tarball(tmp_path))
        assert await store.add("again:1", tarball(tmp_path)) == digest
        await store.alias("python:3.11-slim", "mine")
        logged: list[str] = []
        found = await store.ensure("docker.io/library/python:3.11-slim", logged.append)
        assert (found.digest, logged) == (digest, [])

        await store.remove("again:1")
        assert found.path.is_dir()
        await store.remove("mine")
        assert not found.path.exists()
        assert not store.knows("python:3.11-slim")
        with pytest.raises(UnknownBase):
            await store.ensure("python:3.11-slim", logged.append)
        with pytest.raises(UnknownBase):
            await store.remove("mine")

    asyncio.run(main())


def test_layouts_and_archives_keep_their_digest(tmp_path: Path) -> None:
    async def main() -> None:
        made = layout(tmp_path)
        store = BaseStore(tmp_path / "bases")
        store._architecture = "amd64"
        assert await store.add("one", made.path) == made.digest
        assert (await store.ensure("one", print)).image_id == made.image_id

    asyncio.run(main())


def test_aliases_lead_somewhere_and_never_round(tmp_path: Path) -> None:
    async def main() -> None:
        store = BaseStore(tmp_path / "bases")
        with pytest.raises(UnknownBase):
            await store.alias("a", "nothing")
        await store.alias("a", "microvmd/debian:12")
        await store.alias("b", "a")
        assert store.knows("b")
        with pytest.raises(InvalidName, match="stand for itself"):
            await store.alias("a", "b")
        assert store.knows("b")

    asyncio.run(main())


def test_recipes_are_listed_before_they_are_made(tmp_path: Path) -> None:
    store = BaseStore(tmp_path / "bases")
    assert {one.name for one in store.list()} == {normalise(name) for name in RECIPES}
    assert all(store.knows(name) for name in RECIPES)
    assert not store.knows("python:3")
    assert not store.knows("NOT a name")


def test_a_refused_source_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    store = BaseStore(tmp_path / "bases")
    with pytest.raises(InvalidImage):
        asyncio.run(store.add("junk", tmp_path / "junk"))
    assert list((tmp_path / "bases").iterdir()) == []
    assert oci.is_archive(tmp_path / "junk") is False


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    bases = tmp_path / "bases"
    for name, age in ((".making-old", 10**6), (".making-new", 0)):
        (bases / name).mkdir(parents=True)
        moment = time.time() - age
        os.utime(bases / name, (moment, moment))
    asyncio.run(BaseStore(bases).add("mine", tarball(tmp_path)))
    assert not (bases / ".making-old").exists()
    assert (bases / ".making-new").exists()
