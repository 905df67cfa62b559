"""The record: what was written is read, a decision is whole or nothing, and survives a restart."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy.exc import OperationalError

from microvmd.control import store as store_module
from microvmd.control.store import Store, Transaction
from microvmd.model.errors import StoreUnavailable
from microvmd.model.hooks import HookName, Hooks, HookSetting
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.image import (
    Build,
    Image,
    ImageState,
    Logging,
    Version,
    VersionConfig,
    VersionState,
)
from microvmd.model.microvm import IdlePolicy, MicroVm, Phase
from tests.unit.control.plane import ACCOUNT, CREATE, REGION

pytestmark = pytest.mark.anyio

OTHER_ACCOUNT = "111122223333"


def image(name: str = "app", account: str = ACCOUNT) -> Image:
    arn = ImageArn("aws", REGION, account, name)
    return Image(arn, ImageState.CREATING, 10.5, 10.5, {"team": "a"})


def version(major: int = 1, **changes: object) -> Version:
    config = VersionConfig(
        base_image_arn=CREATE["baseImageArn"],
        build_role_arn=CREATE["buildRoleArn"],
        code_artifact_uri="s3://bucket/app.zip",
        logging=Logging(group="g", stream="s"),
        hooks=Hooks(9000, {HookName.READY: HookSetting(True, 7)}),
        environment={"A": "1"},
    )
    build = Build("b-1", "X86_64", "INTEL", "x86_64", 10.5)
    made = Version(ACCOUNT, "app", ImageVersion(major), config, build, 10.5, 10.5)
    return replace(made, **changes)  # type: ignore[arg-type]


def microvm(number: int = 1, **changes: object) -> MicroVm:
    made = MicroVm(
        microvm_id=f"microvm-{number}",
        account=ACCOUNT,
        endpoint_id=f"endpoint-{number}",
        image_arn=str(image().arn),
        image_version="1.0",
        phase=Phase.PENDING,
        generation=1,
        started_at=10.5,
        idle_policy=IdlePolicy(60, 300, True),
        run_hook_payload="{}",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.at(tmp_path / "state.db") as opened:
        yield opened


async def test_values_are_read_as_they_were_written(store: Store) -> None:
    def write(tx: Transaction) -> None:
        tx.add_image(image())
        tx.add_version(version())
        tx.add_microvm(microvm())

    await store.run(write)
    assert await store.run(lambda tx: tx.image(ACCOUNT, "app")) == image()
    assert await store.run(lambda tx: tx.version(ACCOUNT, "app", ImageVersion(1))) == version()
    assert await store.run(lambda tx: tx.microvm("microvm-1")) == microvm()
    assert await store.run(lambda tx: tx.microvm_at("endpoint-1")) == microvm()
    assert await store.run(lambda tx: tx.microvm("microvm-2")) is None


async def test_changes_replace_what_was_there(store: Store) -> None:
    def write(tx: Transaction) -> None:
        tx.add_image(image())
        tx.save_image(replace(image(), state=ImageState.CREATED))
        for major in (1, 2):
            tx.add_version(version(major))
        tx.save_version(version(2, state=VersionState.FAILED))
        tx.add_microvm(microvm())
        tx.save_microvm(microvm(phase=Phase.TERMINATED, terminated_at=20.0))

    await store.run(write)
    found = await store.run(lambda tx: tx.image(ACCOUNT, "app"))
    assert found is not None
    assert found.state is ImageState.CREATED
    assert await store.run(lambda tx: tx.versions(ACCOUNT, "app")) == [
        version(2, state=VersionState.FAILED),
        version(1),
    ]
    assert await store.run(lambda tx: tx.versions_in(VersionState.PENDING)) == [version(1)]
    assert await store.run(lambda tx: tx.microvms_not_terminated()) == []


async def test_a_decision_that_raises_wrote_nothing(store: Store) -> None:
    def decide(tx: Transaction) -> None:
        tx.add_image(image())
        raise KeyError

    with pytest.raises(KeyError):
        await store.run(decide)
    assert await store.run(lambda tx: tx.image(ACCOUNT, "app")) is None


async def test_a_decision_is_made_although_its_caller_is_gone(store: Store) -> None:
    asked = asyncio.Event()

    async def ask() -> None:
        asked.set()
        await store.run(lambda tx: tx.add_image(image()))

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask())
        await asked.wait()
        asking.cancel()
    assert await store.run(lambda tx: tx.image(ACCOUNT, "app")) == image()


async def test_lists_are_of_one_account_and_cut(store: Store) -> None:
    def write(tx: Transaction) -> None:
        for name in ("c", "a", "b"):
            tx.add_image(image(name))
        tx.add_image(image("a", OTHER_ACCOUNT))
        for number in range(1, 5):
            tx.add_microvm(microvm(number, image_version=f"{number % 2 + 1}.0"))
        tx.add_microvm(microvm(5, account=OTHER_ACCOUNT))

    def ids(found: list[tuple[int, MicroVm]]) -> list[str]:
        return [vm.microvm_id for _, vm in found]

    await store.run(write)
    assert [i.name for i in await store.run(lambda tx: tx.images(ACCOUNT, limit=2))] == ["a", "b"]
    assert [i.name for i in await store.run(lambda tx: tx.images(ACCOUNT, after="b"))] == ["c"]
    newest = await store.run(lambda tx: tx.microvms(ACCOUNT, limit=3))
    assert ids(newest) == ["microvm-4", "microvm-3", "microvm-2"]
    rest = await store.run(lambda tx: tx.microvms(ACCOUNT, before=newest[-1][0]))
    assert ids(rest) == ["microvm-1"]
    arn = str(image().arn)
    ones = await store.run(lambda tx: tx.microvms(ACCOUNT, image_arn=arn, image_version="1.0"))
    assert ids(ones) == ["microvm-4", "microvm-2"]
    assert await store.run(lambda tx: tx.microvms(ACCOUNT, image_arn="other")) == []


async def test_an_image_goes_with_its_versions_only(store: Store) -> None:
    def write(tx: Transaction) -> None:
        tx.add_image(image())
        tx.add_image(image("other"))
        tx.add_version(version())
        tx.add_version(replace(version(), image_name="other"))
        tx.remove_image(ACCOUNT, "app")

    await store.run(write)
    assert [i.name for i in await store.run(lambda tx: tx.images(ACCOUNT))] == ["other"]
    assert await store.run(lambda tx: tx.versions(ACCOUNT, "app")) == []
    assert len(await store.run(lambda tx: tx.versions(ACCOUNT, "other"))) == 1


async def test_client_tokens_go_with_their_resource_and_its_parts(store: Store) -> None:
    def write(tx: Transaction) -> None:
        for number, resource in enumerate(("arn:a_p", "arn:a_p 2.0", "arn:app", "arn:a_p2")):
            tx.add_client_token(ACCOUNT, "op", str(number), "print", resource, 10.0)
        tx.forget_client_tokens(ACCOUNT, "arn:a_p")

    await store.run(write)
    found = [
        await store.run(lambda tx, n=number: tx.client_token(ACCOUNT, "op", str(n)))  # type: ignore[misc]
        for number in range(4)
    ]
    assert found == [None, None, ("print", "arn:app"), ("print", "arn:a_p2")]


async def test_a_restart_finds_everything(tmp_path: Path) -> None:
    async with Store.at(tmp_path / "new" / "state.db") as first:
        await first.run(lambda tx: tx.add_microvm(microvm()))
    async with Store.at(tmp_path / "new" / "state.db") as second:
        assert await second.run(lambda tx: tx.microvms_not_terminated()) == [microvm()]


async def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with Store.at(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(CommandError):
        async with Store.at(path):
            raise AssertionError("opened")


async def test_only_root_reads_it(tmp_path: Path) -> None:
    """Also one from before, and what SQLite makes beside it."""
    (tmp_path / "state.db").touch(0o644)
    async with Store.at(tmp_path / "state.db"):
        modes = _modes(tmp_path)
    assert len(modes) > 1
    assert set(modes.values()) == {0o600}


def _modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


async def test_a_store_that_another_program_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept of what was decided meanwhile, and the log tells it once."""
    said: list[str] = []
    monkeypatch.setattr(store_module.log, "error", lambda event, **facts: said.append(event))
    async with Store.at(tmp_path / "state.db") as store:
        await store.run(lambda tx: tx._connection.exec_driver_sql("PRAGMA busy_timeout = 1"))
        with closing(sqlite3.connect(tmp_path / "state.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="another program has locked it"):
                    await store.run(lambda tx: tx.add_microvm(microvm()))
        assert await store.run(lambda tx: tx.microvms(ACCOUNT)) == []
    assert said == ["store.unavailable"]


async def test_a_store_that_can_only_be_read(tmp_path: Path) -> None:
    """As behind a file system that the kernel has made read-only: it may be mended."""
    async with Store.at(tmp_path / "state.db") as store:
        await store.run(lambda tx: tx._connection.exec_driver_sql("PRAGMA query_only = 1"))
        with pytest.raises(StoreUnavailable, match="its file can only be read"):
            await store.run(lambda tx: tx.add_microvm(microvm()))


async def test_a_table_that_another_statement_holds(tmp_path: Path) -> None:
    def drop_what_is_read(tx: Transaction) -> None:
        reading = tx._connection.exec_driver_sql("SELECT * FROM microvms")
        tx._connection.exec_driver_sql("DROP TABLE microvms")
        reading.close()

    async with Store.at(tmp_path / "state.db") as store:
        await store.run(lambda tx: tx.add_microvm(microvm(1)))
        await store.run(lambda tx: tx.add_microvm(microvm(2)))
        with pytest.raises(StoreUnavailable, match="another of its statements"):
            await store.run(drop_what_is_read)
        assert await store.run(lambda tx: tx.microvm(microvm(1).microvm_id)) is not None


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR_WRITE]
)
async def test_other_trouble_that_may_pass(tmp_path: Path, code: int) -> None:
    found = sqlite3.OperationalError("as SQLite says")
    found.sqlite_errorcode = code

    def fail(_: Transaction) -> None:
        raise OperationalError("INSERT", {}, found)

    async with Store.at(tmp_path / "state.db") as store:
        with pytest.raises(StoreUnavailable, match="the record cannot be written"):
            await store.run(fail)


async def test_what_the_driver_refuses_is_no_passing_trouble(tmp_path: Path) -> None:
    """Repeated for ever it would never be told."""
    async with Store.at(tmp_path / "state.db") as store:
        with pytest.raises(OperationalError, match="UTF-8"):
            await store.run(
                lambda tx: tx._connection.exec_driver_sql("SELECT CAST(x'ff' AS TEXT)").all()
            )


async def test_a_statement_that_is_wrong_is_no_passing_trouble(tmp_path: Path) -> None:
    async with Store.at(tmp_path / "state.db") as store:
        with pytest.raises(OperationalError):
            await store.run(lambda tx: tx._connection.exec_driver_sql("SELECT * FROM nothing"))
